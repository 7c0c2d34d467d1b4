import asyncio
import threading
from collections.abc import Iterator

import pytest

from tasks.in_order import in_order, in_threads


async def test_results_come_in_the_order_of_the_items_not_of_their_ends() -> None:
    gates = [asyncio.Event() for _ in range(4)]
    ended: list[int] = []

    async def work(item: int) -> int:
        await gates[item].wait()
        ended.append(item)
        if item:
            gates[item - 1].set()
        return item * 10

    gates[3].set()
    assert [result async for result in in_order(range(4), work, window=4)] == [0, 10, 20, 30]
    assert ended == [3, 2, 1, 0]


async def test_no_more_than_the_window_is_begun() -> None:
    begun = 0
    taken = 0
    most = 0

    async def work(item: int) -> int:
        nonlocal begun, most
        begun += 1
        most = max(most, begun - taken)
        await asyncio.sleep(0)
        return item

    async for _ in in_order(range(100), work, window=7):
        taken += 1
    assert begun == taken == 100
    assert most <= 8  # seven, and the one that is being handed out


async def test_items_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(1000):
            taken.append(item)
            yield item

    async def work(item: int) -> int:
        return item

    results = in_order(items(), work, window=5)
    assert await anext(results) == 0
    assert len(taken) <= 6
    await results.aclose()  # type: ignore[attr-defined]


async def test_the_first_error_is_raised_and_cancels_the_rest() -> None:
    cancelled: list[int] = []

    async def work(item: int) -> int:
        if item == 1:
            raise ValueError("item 1")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(item)
            raise
        return item

    async def first(item: int) -> int:
        return item if item == 0 else await work(item)

    with pytest.raises(ValueError, match="item 1"):
        [result async for result in in_order(range(4), first, window=4)]
    assert cancelled == [2, 3]


def test_threads_give_results_in_the_order_of_the_items_and_begin_a_bounded_number() -> None:
    later = threading.Event()
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(6):
            taken.append(item)
            yield item

    def work(item: int) -> int:
        if item == 1:
            assert later.wait(60)  # until the third is done: they are under way together
        if item == 2:
            later.set()
        return item * 10

    results = in_threads(items(), work, num_threads=3)
    assert next(results) == 0
    assert taken == [0]  # the first alone
    assert next(results) == 10
    assert len(taken) <= 4
    assert list(results) == [20, 30, 40, 50]


def test_an_error_in_a_thread_is_raised_when_its_turn_comes() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise ValueError("the third")
        return item

    results = in_threads(range(100), work, num_threads=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the third"):
        list(results)
