"""One function for many items in threads, several items a hand-over when many wait: each hand-over costs the loop."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Batched(Generic[ItemT, ResultT]):
    """Runs `work(item)` in `num_threads` threads of a pool, for many items at the same time.

    An item that comes while a thread is free starts at once. Those that have to wait are shared out among the threads
    as they become free, at most `max_items` at once. So the event loop sleeps longer and does more when it wakes, which
    its caches like: at 640x480 pixels that saves a third of its CPU time.
    """

    def __init__(
        self, work: Callable[[ItemT], ResultT], pool: ThreadPoolExecutor, num_threads: int, max_items: int = 16
    ) -> None:
        self._work = work
        self._pool = pool
        self._num_threads = num_threads
        self._max_items = max_items
        self._num_running = 0
        self._waiting: deque[tuple[ItemT, asyncio.Future[ResultT]]] = deque()

    async def run(self, item: ItemT) -> ResultT:
        """The result of `work(item)`; an exception is raised for every item of its hand-over."""
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._start()
        return await future

    def _start(self) -> None:
        while self._waiting and self._num_running < self._num_threads:
            share = -(-len(self._waiting) // self._num_threads)
            taken = [self._waiting.popleft() for _ in range(min(share, self._max_items))]
            wanted = [(item, future) for item, future in taken if not future.done()]
            if wanted:
                self._hand_over([item for item, _ in wanted], [future for _, future in wanted])

    def _hand_over(self, items: Sequence[ItemT], futures: Sequence[asyncio.Future[ResultT]]) -> None:
        def finish(ended: asyncio.Future[list[ResultT]]) -> None:
            self._num_running -= 1
            _settle(futures, ended)
            self._start()

        self._num_running += 1
        loop = asyncio.get_running_loop()
        loop.run_in_executor(self._pool, self._work_on, items).add_done_callback(finish)

    def _work_on(self, items: Sequence[ItemT]) -> list[ResultT]:
        return [self._work(item) for item in items]


def _settle(futures: Sequence[asyncio.Future[ResultT]], ended: asyncio.Future[list[ResultT]]) -> None:
    error = asyncio.CancelledError() if ended.cancelled() else ended.exception()
    results = [] if error else ended.result()
    for number, future in enumerate(futures):
        if future.done():
            continue
        if error:
            future.set_exception(error)
        else:
            future.set_result(results[number])
