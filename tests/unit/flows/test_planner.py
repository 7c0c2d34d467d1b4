import threading
from collections.abc import Iterator

import pytest

from controlmill.errors import SourceMissingError
from flows.planner import BackgroundPlanner


def _take_all(planner: BackgroundPlanner) -> list[int]:
    taken = []
    while not planner.exhausted:
        shard = planner.take()
        if shard is not None:
            taken.append(shard)
    return taken


def test_shards_are_handed_out_in_order_while_planning_goes_on() -> None:
    go_on = threading.Event()

    def plan() -> Iterator[int]:
        yield 0
        go_on.wait()
        yield 1

    with BackgroundPlanner(plan) as planner:
        planner.check(timeout_s=None)
        assert planner.take() == 0
        assert planner.take() is None
        assert not planner.exhausted
        go_on.set()
        assert _take_all(planner) == [1]


def test_a_failure_before_the_first_shard_is_raised_by_check() -> None:
    def plan() -> Iterator[int]:
        raise SourceMissingError("urls.txt is not there")
        yield 0

    with BackgroundPlanner(plan) as planner, pytest.raises(SourceMissingError, match="urls.txt"):
        planner.check(timeout_s=None)


def test_a_failure_after_some_shards_is_raised_once_they_are_taken() -> None:
    def plan() -> Iterator[int]:
        yield 0
        yield 1
        raise SourceMissingError("line 20001 is no JSON")

    with BackgroundPlanner(plan) as planner:
        taken = []
        with pytest.raises(SourceMissingError, match="line 20001"):
            while True:
                shard = planner.take()
                if shard is not None:
                    taken.append(shard)
        assert taken == [0, 1]


def test_leaving_ends_the_planning_of_an_endless_source() -> None:
    def plan() -> Iterator[int]:
        shard = 0
        while True:
            yield shard
            shard += 1

    with BackgroundPlanner(plan) as planner:
        planner.check(timeout_s=None)
    assert not planner.complete
