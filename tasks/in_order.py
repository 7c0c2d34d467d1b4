"""Work on many items at once, and take the results in the order of the items, in bounded memory."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


async def in_order(
    items: Iterable[ItemT], work: Callable[[ItemT], Awaitable[ResultT]], window: int
) -> AsyncIterator[ResultT]:
    """Yield `work(item)` for each item in order, with at most `window` items begun and not yet yielded.

    The first exception cancels what is under way and is raised.
    """
    pending: deque[asyncio.Future[ResultT]] = deque()
    try:
        for item in items:
            if len(pending) >= window:
                yield await pending.popleft()
            while pending and pending[0].done():
                yield pending.popleft().result()
            pending.append(asyncio.ensure_future(work(item)))
        while pending:
            yield await pending.popleft()
    finally:
        for future in pending:
            future.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


def in_threads(items: Iterable[ItemT], work: Callable[[ItemT], ResultT], num_threads: int) -> Generator[ResultT]:
    """Yield `work(item)` for each item in order, with as many items begun and not yet yielded as there are threads.

    The first item is done before the second is begun. The first exception is raised once what is under way has ended.
    """
    pending: deque[Future[ResultT]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        for number, item in enumerate(items):
            pending.append(pool.submit(work, item))
            while pending and (number == 0 or len(pending) == num_threads or pending[0].done()):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
