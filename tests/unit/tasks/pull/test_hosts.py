import asyncio

import pytest

from controlmill.reasons import Reason
from controlmill.testing.network import SkippingClock
from tasks.pull.failures import Failure
from tasks.pull.hosts import HostLimits, Hosts, Turn


def limits(max_in_flight: int = 2, spacing_s: float = 0.0) -> HostLimits:
    return HostLimits(max_in_flight, spacing_s, failure_limit=3, cooldown_s=60.0, max_hold_s=30.0)


@pytest.fixture
def clock() -> SkippingClock:
    return SkippingClock()


async def enter(hosts: Hosts, name: str = "a") -> Turn:
    turn = await hosts.enter(name)
    assert isinstance(turn, Turn)
    return turn


async def test_no_more_than_allowed_are_in_flight_and_the_first_to_ask_is_the_first_to_go(clock: SkippingClock) -> None:
    hosts = Hosts(limits(max_in_flight=2), clock)
    in_flight: set[int] = set()
    most = 0
    order: list[int] = []

    async def ask(number: int) -> None:
        nonlocal most
        turn = await enter(hosts)
        order.append(number)
        in_flight.add(number)
        most = max(most, len(in_flight))
        await asyncio.sleep(0)
        in_flight.remove(number)
        hosts.leave(turn)

    await asyncio.gather(*(ask(number) for number in range(20)))
    assert most == 2
    assert order == list(range(20))


async def test_hosts_do_not_wait_for_each_other(clock: SkippingClock) -> None:
    hosts = Hosts(limits(max_in_flight=1), clock)
    await enter(hosts, "a")
    await enter(hosts, "b")


async def test_requests_are_spaced(clock: SkippingClock) -> None:
    hosts = Hosts(limits(max_in_flight=9, spacing_s=0.5), clock)
    began = clock.now()
    starts: list[float] = []

    async def ask() -> None:
        turn = await enter(hosts)
        starts.append(clock.now() - began)
        hosts.leave(turn)

    await asyncio.gather(*(ask() for _ in range(5)))
    assert starts == [0.0, 0.5, 1.0, 1.5, 2.0]


async def test_a_crawl_delay_slows_one_host_down(clock: SkippingClock) -> None:
    hosts = Hosts(limits(), clock)
    hosts.slow_down("a", 10.0)
    began = clock.now()
    for _ in range(3):
        hosts.leave(await enter(hosts, "a"))
        hosts.leave(await enter(hosts, "b"))
    assert clock.now() - began == 20.0


async def test_a_host_on_hold_is_waited_for(clock: SkippingClock) -> None:
    hosts = Hosts(limits(), clock)
    hosts.hold("a", 20.0)
    began = clock.now()
    await enter(hosts, "b")
    assert clock.now() == began
    await enter(hosts, "a")
    assert clock.now() == began + 20.0


async def test_a_host_that_wants_more_than_we_have_is_refused_at_once(clock: SkippingClock) -> None:
    hosts = Hosts(limits(max_in_flight=1, spacing_s=1.0), clock)
    turn = await enter(hosts)
    queued = asyncio.ensure_future(hosts.enter("a"))
    await asyncio.sleep(0)
    hosts.hold("a", 3600.0)
    hosts.leave(turn)
    for refusal in (await queued, await hosts.enter("a")):
        assert isinstance(refusal, Failure)
        assert refusal.reason is Reason.HOST_UNAVAILABLE
    assert clock.now() < 1100


async def test_the_circuit_opens_then_lets_one_try(clock: SkippingClock) -> None:
    hosts = Hosts(limits(max_in_flight=5), clock)
    for _ in range(3):
        await enter(hosts)
        hosts.failed("a")
    refusal = await hosts.enter("a")
    assert isinstance(refusal, Failure)
    assert refusal.reason is Reason.HOST_UNAVAILABLE
    assert "3 times in a row" in refusal.message

    clock.skip(60)
    trial = await enter(hosts)
    assert isinstance(await hosts.enter("a"), Failure)
    hosts.failed("a")
    hosts.leave(trial)
    assert isinstance(await hosts.enter("a"), Failure)

    clock.skip(60)
    trial = await enter(hosts)
    hosts.succeeded("a")
    hosts.leave(trial)
    await enter(hosts)
    await enter(hosts)


async def test_one_success_between_failures_starts_the_count_anew(clock: SkippingClock) -> None:
    hosts = Hosts(limits(), clock)
    for _ in range(5):
        hosts.failed("a")
        hosts.failed("a")
        hosts.succeeded("a")
    await enter(hosts)


async def test_those_in_the_queue_of_a_host_that_fails_are_refused(clock: SkippingClock) -> None:
    hosts = Hosts(limits(max_in_flight=1), clock)
    turn = await enter(hosts)
    queued = [asyncio.ensure_future(hosts.enter("a")) for _ in range(4)]
    await asyncio.sleep(0)
    for _ in range(3):
        hosts.failed("a")
    hosts.leave(turn)
    assert all(isinstance(outcome, Failure) for outcome in await asyncio.gather(*queued))


async def test_a_row_that_is_cancelled_gives_its_place_on(clock: SkippingClock) -> None:
    hosts = Hosts(limits(max_in_flight=1), clock)
    turn = await enter(hosts)
    gone, at_the_same_moment, last = (asyncio.ensure_future(hosts.enter("a")) for _ in range(3))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    hosts.leave(turn)
    at_the_same_moment.cancel()
    assert isinstance(await last, Turn)


async def test_idle_hosts_are_forgotten(clock: SkippingClock) -> None:
    hosts = Hosts(limits(spacing_s=0.1), clock)
    for number in range(10_000):
        hosts.leave(await enter(hosts, f"host{number}"))
        clock.skip(0.01)
    assert len(hosts) < 1100


async def test_hosts_that_failed_are_forgotten_after_their_cooldown(clock: SkippingClock) -> None:
    hosts = Hosts(limits(), clock)
    for number in range(10_000):
        hosts.leave(await enter(hosts, f"host{number}"))
        hosts.failed(f"host{number}")
        clock.skip(1)
    assert len(hosts) < 1200
