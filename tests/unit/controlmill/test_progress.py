"""Counting, speed and time left, on literal numbers."""

import pytest

from controlmill import logs
from controlmill.progress import LogObserver, SilentObserver, Tally, UpdateTally, observe, observer
from controlmill.reasons import Reason


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_speed_and_time_left() -> None:
    clock = Clock()
    tally = Tally(clock)
    clock.now += 25  # what starts before there are rows does not count
    assert tally.speed() == (0.0, 0.0)
    tally.plan(2, 1000, complete=False)
    clock.now += 5
    tally.plan(2, 1000, complete=False)
    clock.now += 5
    tally.count(200, {Reason.TIMEOUT: 50})
    assert tally.speed() == (20.0, 15.0)
    assert tally.seconds_left() is None
    tally.plan(2, 1000, complete=True)
    assert tally.seconds_left() == 40.0
    assert tally.num_failed == 50


def test_speed_is_of_the_last_minute() -> None:
    clock = Clock()
    tally = Tally(clock)
    for second in range(1, 121):
        clock.now += 1
        tally.count(10 * second if second <= 60 else 600 + (second - 60), {})
    assert tally.speed() == (1.0, 1.0)


def test_speed_falls_to_zero_while_nothing_comes_in() -> None:
    clock = Clock()
    tally = Tally(clock)
    clock.now += 1
    tally.count(100, {})
    clock.now += 99
    assert tally.speed() == (1.0, 1.0)
    tally.count(100, {})
    clock.now += 100
    tally.count(100, {})
    assert tally.speed() == (0.0, 0.0)
    tally.plan(1, 200, complete=True)
    assert tally.seconds_left() is None


def test_a_shard_that_starts_again_makes_no_negative_speed() -> None:
    clock = Clock()
    tally = Tally(clock)
    clock.now += 1
    tally.count(100, {})
    clock.now += 60
    tally.count(20, {})
    assert tally.rows_done == 20
    assert tally.speed()[0] >= 0


def test_nobody_observes_outside_of_a_run() -> None:
    assert isinstance(observer(), SilentObserver)
    mine = LogObserver()
    with observe(mine):
        assert observer() is mine
    assert isinstance(observer(), SilentObserver)


def test_log_observer_writes_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    clock = Clock()
    watch = LogObserver(every_s=5.0, clock=clock)
    watch.message("starting Ray")
    watch.planned(2, 300, complete=False)
    watch.planned(3, 400, complete=True)
    for _ in range(10):
        clock.now += 1
        watch.rows(int(clock.now - 100) * 20, {Reason.DNS: 10})
    for shard in range(3):
        watch.shard_done(shard)
    assert capsys.readouterr().err.splitlines() == [
        "starting Ray",
        "planned shards=3 rows=400",
        "progress shards=0/3 rows=100/400 failed=10 images_per_s=18.0 left_s=15",
        "progress shards=0/3 rows=200/400 failed=10 images_per_s=19.0 left_s=10",
        "progress shards=3/3 rows=200/400 failed=10 images_per_s=19.0 left_s=10",
    ]


def test_log_observer_tells_how_far_training_is(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    clock = Clock()
    watch = LogObserver(every_s=5.0, clock=clock)
    for update in range(1, 13):
        clock.now += 1
        seen = {"samples_seen": 8 * update, "epoch": update / 10, "loss": 1 / update}
        watch.trained({"update": update, "num_updates": 12, **seen})
    assert capsys.readouterr().err.splitlines() == [
        "training update=5/12 epoch=0.5 loss=0.2 images_per_s=8.0 left_s=7",
        "training update=10/12 epoch=1.0 loss=0.1 images_per_s=8.0 left_s=2",
        "training update=12/12 epoch=1.2 loss=0.08333 images_per_s=8.0 left_s=0",
    ]


def test_the_next_stage_of_a_run_begins_at_zero() -> None:
    tally = Tally(lambda: 0.0)
    tally.plan(2, 10, complete=True)
    tally.count(10, {Reason.DNS: 3})
    tally.shards_done = 2
    tally.plan(0, 0, complete=False)
    assert (tally.num_shards, tally.rows_done, tally.shards_done, tally.num_failed) == (0, 0, 0, 0)
    tally.plan(2, 10, complete=False)
    tally.plan(2, 10, complete=True)
    assert (tally.num_shards, tally.shards_done, tally.complete) == (2, 0, True)


def test_a_run_that_goes_back_is_counted_anew() -> None:
    clock = Clock()
    tally = UpdateTally(clock)
    for update in (98, 99, 100, 1):
        clock.now += 2
        tally.count({"update": update, "num_updates": 101, "samples_seen": 4 * update})
    assert tally.seconds_left() is None
    clock.now += 5
    tally.count({"update": 2, "num_updates": 102, "samples_seen": 12})
    assert tally.speed() == (0.2, 1.6)
    assert tally.seconds_left() == 500
