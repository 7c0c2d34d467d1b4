import asyncio
from dataclasses import dataclass, field

import pytest

from controlmill.errors import NetworkOutageError
from controlmill.testing.network import SkippingClock, until
from tasks.pull.outage import Outage, OutageLimits, Verdict
from tasks.pull.statistics import PullStatistics

LIMITS = OutageLimits(patience_s=600.0, verdict_s=30.0, num_failures=16, num_hosts=6)


@dataclass
class _World:
    """An outage watch, its clock, and whether hosts that answered before still do."""

    reachable: bool = True
    limits: OutageLimits = LIMITS
    clock: SkippingClock = field(default_factory=SkippingClock)
    statistics: PullStatistics = field(default_factory=PullStatistics)
    num_checks: int = 0

    def __post_init__(self) -> None:
        self.outage = Outage(self.limits, self.clock, self.statistics, self.check)

    async def check(self) -> bool:
        self.num_checks += 1
        await asyncio.sleep(0)
        return self.reachable

    def fail(self, host: str) -> "asyncio.Task[Verdict]":
        """A row of `host` begins and fails in a suspect way."""
        self.outage.begin()
        self.outage.suspect(host)
        return asyncio.ensure_future(self.outage.verdict())

    def fail_many(self, num_hosts: int, num_rows: int) -> "list[asyncio.Task[Verdict]]":
        return [self.fail(f"host{number % num_hosts}") for number in range(num_rows)]


async def turns(num: int = 20) -> None:
    """Let everything that can run now run."""
    for _ in range(num):
        await asyncio.sleep(0)


async def test_an_answer_after_the_failure_makes_it_real() -> None:
    world = _World()
    world.outage.begin()  # another row, still under way
    row = world.fail("a")
    await turns()
    assert not row.done()
    world.outage.answered()
    assert await row is Verdict.REAL
    assert world.num_checks == 0


async def test_failures_of_few_hosts_are_real_as_soon_as_nobody_is_left_to_ask() -> None:
    world = _World(reachable=False)
    rows = world.fail_many(num_hosts=5, num_rows=100)
    assert set(await asyncio.gather(*rows)) == {Verdict.REAL}
    assert not world.outage.is_down


async def test_a_row_does_not_wait_for_others_longer_than_the_limit() -> None:
    world = _World(limits=OutageLimits(patience_s=600, verdict_s=0.01))
    world.outage.begin()  # never ends
    assert await world.fail("a") is Verdict.REAL


async def test_many_dead_hosts_are_no_outage_while_others_can_be_reached() -> None:
    world = _World(reachable=True)
    rows = world.fail_many(num_hosts=40, num_rows=40)
    assert set(await asyncio.gather(*rows)) == {Verdict.REAL}
    assert world.num_checks == 1
    assert world.statistics.num_outages == 0


async def test_in_an_outage_everything_waits_and_no_row_fails() -> None:
    world = _World(reachable=False)
    rows = world.fail_many(num_hosts=8, num_rows=20)
    await turns(6)
    assert world.outage.is_down
    paused = asyncio.ensure_future(world.outage.wait_until_back())
    await turns(8)
    assert not paused.done()

    world.reachable = True
    verdicts = await asyncio.gather(*rows)
    await paused
    assert set(verdicts) <= {Verdict.AGAIN, Verdict.PROBE}
    assert world.outage.num_ended == 1
    assert world.statistics.num_outages == 1
    assert world.statistics.outage_s > 0


async def test_rows_are_sent_as_probes_and_the_first_answer_ends_the_outage() -> None:
    world = _World(reachable=False)
    rows = world.fail_many(num_hosts=8, num_rows=20)
    done, waiting = await asyncio.wait(rows, return_when=asyncio.FIRST_COMPLETED)
    assert [row.result() for row in done] == [Verdict.PROBE]
    world.outage.answered()
    assert {await row for row in waiting} == {Verdict.AGAIN}
    await world.outage.wait_until_back()


async def test_probes_come_at_growing_intervals_and_in_turn() -> None:
    world = _World(reachable=False)
    began = world.clock.now()
    probes: list[tuple[int, float]] = []

    async def row(number: int) -> None:
        while True:
            verdict = await world.fail(f"host{number}")
            assert verdict is Verdict.PROBE
            probes.append((number, world.clock.now() - began))

    tasks = [asyncio.ensure_future(row(number)) for number in range(16)]
    await until(lambda: len(probes) >= 8)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await world.outage.close()
    assert [at for _, at in probes[:8]] == [1, 3, 7, 15, 31, 61, 91, 121]
    assert len({number for number, _ in probes[:8]}) == 8


async def test_the_run_stops_when_patience_is_over_and_names_no_row_failed() -> None:
    world = _World(reachable=False)
    rows = world.fail_many(num_hosts=8, num_rows=40)
    outcomes = await asyncio.gather(*rows, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, NetworkOutageError)]
    assert errors
    assert set(outcomes) - set(errors) <= {Verdict.PROBE}
    assert "No row was marked as failed" in str(errors[0])
    with pytest.raises(NetworkOutageError):
        await world.outage.wait_until_back()
    world.outage.suspect("a")
    with pytest.raises(NetworkOutageError):
        await world.outage.verdict()


async def test_a_second_outage_is_noticed_like_the_first() -> None:
    world = _World(reachable=False)
    for number in (1, 2):
        world.reachable = False
        rows = world.fail_many(num_hosts=8, num_rows=20)
        await turns(6)
        world.reachable = True
        await asyncio.gather(*rows)
        for _ in rows:
            world.outage.end()
        assert world.statistics.num_outages == number


async def test_a_cancelled_row_leaves_nothing_behind() -> None:
    world = _World(reachable=False)
    rows = world.fail_many(num_hosts=8, num_rows=20)
    await turns(4)
    rows[0].cancel()
    await asyncio.gather(rows[0], return_exceptions=True)
    world.reachable = True
    assert set(await asyncio.gather(*rows[1:])) <= {Verdict.AGAIN, Verdict.PROBE}
