import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tasks.batched import Batched


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


async def test_each_caller_gets_the_result_of_its_own_item(pool: ThreadPoolExecutor) -> None:
    squares: Batched[int, int] = Batched(lambda item: item * item, pool, num_threads=2, max_items=3)
    results = await asyncio.gather(*(squares.run(item) for item in range(50)))
    assert results == [item * item for item in range(50)]


async def test_items_start_at_once_while_a_thread_is_free(pool: ThreadPoolExecutor) -> None:
    both = threading.Barrier(2, timeout=10)
    meeting: Batched[None, int] = Batched(lambda _: both.wait(), pool, num_threads=2)
    assert sorted(await asyncio.gather(meeting.run(None), meeting.run(None))) == [0, 1]


async def test_those_that_wait_share_hand_overs_of_bounded_size() -> None:
    class Counting(ThreadPoolExecutor):
        num_jobs = 0

        def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
            self.num_jobs += 1
            return super().submit(*args, **kwargs)

    gate = threading.Event()
    done: list[int] = []

    def work(item: int) -> None:
        gate.wait(10)
        done.append(item)

    with Counting(1) as pool:
        batched = Batched(work, pool, num_threads=1, max_items=4)
        waiting = [asyncio.create_task(batched.run(item)) for item in range(10)]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*waiting)
    assert done == list(range(10))
    assert pool.num_jobs == 4  # the first at once, then 4, 4 and 1


async def test_what_the_work_raises_reaches_the_caller_and_later_items_go_on(pool: ThreadPoolExecutor) -> None:
    def work(item: int) -> int:
        if item == 0:
            raise MemoryError("no room for this one")
        return item

    batched = Batched(work, pool, num_threads=1, max_items=1)
    failed, fine = await asyncio.gather(batched.run(0), batched.run(1), return_exceptions=True)
    assert isinstance(failed, MemoryError)
    assert fine == 1


async def test_a_cancelled_item_is_not_worked_on(pool: ThreadPoolExecutor) -> None:
    gate = threading.Event()
    done: list[int] = []

    def work(item: int) -> None:
        gate.wait(10)
        done.append(item)

    batched = Batched(work, pool, num_threads=1)
    first, cancelled, last = (asyncio.create_task(batched.run(item)) for item in range(3))
    await asyncio.sleep(0)
    cancelled.cancel()
    gate.set()
    await asyncio.gather(first, last)
    assert cancelled.cancelled()
    assert done == [0, 2]
