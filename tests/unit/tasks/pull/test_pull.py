import asyncio
import contextlib
import hashlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from email.utils import formatdate

import pytest

from controlmill.config.pull import PullOptions
from controlmill.errors import NetworkOutageError
from controlmill.reasons import Reason, RowFailure
from controlmill.testing.hostile_server import HostileServer
from controlmill.testing.http_server import Request, answer
from controlmill.testing.network import ListedLookup, until
from tasks.pull.outage import OutageLimits
from tasks.pull.pull import Pulled, Puller, Surroundings

DATA = b"an image, as far as pulling knows"
OPTIONS = PullOptions(timeout=20.0, total_timeout=30.0, allow_private_networks=True)


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer({"/image": DATA}) as server:
        yield server


@contextlib.asynccontextmanager
async def puller(
    lookup: ListedLookup | None = None, outage: OutageLimits | None = None, num_parallel: int = 1, **options: object
) -> AsyncIterator[Puller]:
    surroundings = Surroundings(lookup=lambda: lookup or ListedLookup(), outage=outage)
    async with Puller(OPTIONS.model_copy(update=options), num_parallel, surroundings) as one:
        yield one


async def test_an_image_comes_with_its_hash(server: HostileServer) -> None:
    async with puller() as one:
        pulled = await one.pull(server.url("/image"))
    assert pulled == Pulled(DATA, hashlib.sha256(DATA).hexdigest(), server.url("/image"), 200, 1)


async def test_the_hash_can_be_left_out(server: HostileServer) -> None:
    async with puller(compute_hash=None) as one:
        pulled = await one.pull(server.url("/image"))
    assert isinstance(pulled, Pulled)
    assert pulled.digest is None


@pytest.mark.parametrize("kind", ["sha256", "md5", "sha512"])
async def test_an_expected_hash_is_verified(server: HostileServer, kind: str) -> None:
    right = hashlib.new(kind, DATA).hexdigest()
    async with puller() as one:
        assert isinstance(await one.pull(server.url("/image"), (kind, right.upper())), Pulled)
        outcome = await one.pull(server.url("/image"), (kind, "0" * len(right)))
    assert isinstance(outcome, RowFailure)
    assert outcome.reason is Reason.HASH_MISMATCH
    assert right in outcome.message


async def test_large_bodies_are_hashed_alike() -> None:
    large = bytes(3 * 1024 * 1024)
    with HostileServer({"/large": large}) as server:
        async with puller() as one:
            pulled = await one.pull(server.url("/large"))
    assert isinstance(pulled, Pulled)
    assert pulled.digest == hashlib.sha256(large).hexdigest()


async def test_the_final_url_has_no_credentials(server: HostileServer) -> None:
    async with puller() as one:
        pulled = await one.pull(f"http://user:secret@127.0.0.1:{server.port}/image")
    assert isinstance(pulled, Pulled)
    assert pulled.final_url == server.url("/image")


@pytest.mark.parametrize(("max_connections", "num_parallel", "most"), [(4, 1, 4), (4, 2, 2), (4, 16, 1)])
async def test_the_connections_of_a_host_are_divided_among_parallel_tasks(
    server: HostileServer, max_connections: int, num_parallel: int, most: int
) -> None:
    in_flight = 0
    seen: list[int] = []

    async def slow(request: Request, writer: asyncio.StreamWriter) -> bool:
        nonlocal in_flight
        in_flight += 1
        seen.append(in_flight)
        await asyncio.sleep(0.02)
        in_flight -= 1
        return await answer(DATA)(request, writer)

    server.routes["/slow"] = slow
    async with puller(num_parallel=num_parallel, max_connections_per_host=max_connections) as one:
        outcomes = await asyncio.gather(*(one.pull(server.url("/slow")) for _ in range(12)))
    assert all(isinstance(outcome, Pulled) for outcome in outcomes)
    assert max(seen) == most


async def test_requests_per_second_are_limited(server: HostileServer) -> None:
    async with puller(max_requests_per_second_per_host=50.0, num_parallel=2) as one:
        await asyncio.gather(*(one.pull(server.url("/image")) for _ in range(6)))
    times = [request.time_s for request in server.requests]
    assert times[-1] - times[0] >= 6 * 2 / 50 - 0.02


async def test_waiting_in_the_queue_of_a_host_is_not_waiting_for_it(server: HostileServer) -> None:
    async with puller(max_requests_per_second_per_host=20.0, total_timeout=0.2) as one:
        outcomes = await asyncio.gather(*(one.pull(server.url("/image")) for _ in range(10)))
    assert all(isinstance(outcome, Pulled) for outcome in outcomes)


async def test_a_retry_after_that_does_not_fit_fails_at_once_and_spares_the_host(server: HostileServer) -> None:
    async with puller(retries=5) as one:
        outcome = await one.pull(server.url("/429?after=3600"))
        assert isinstance(outcome, RowFailure)
        assert (outcome.reason, outcome.http_status, outcome.attempts) == (Reason.HTTP_429, 429, 1)
        outcome = await one.pull(server.url("/image"))
        assert isinstance(outcome, RowFailure)
        assert outcome.reason is Reason.HOST_UNAVAILABLE
    assert server.asked("/image") == []


async def test_a_retry_after_date_holds_the_other_rows_of_the_host_too(server: HostileServer) -> None:
    async def busy_once(request: Request, writer: asyncio.StreamWriter) -> bool:
        if len(server.asked("/busy")) > 1:
            return await answer(DATA)(request, writer)
        # a date has whole seconds: at least one second from now
        later = formatdate(time.time() + 2, usegmt=True)
        return await answer(status="503 Busy", headers={"Retry-After": later})(request, writer)

    server.routes["/busy"] = busy_once
    async with puller(retries=1, max_connections_per_host=1) as one:
        outcomes = await asyncio.gather(one.pull(server.url("/busy")), one.pull(server.url("/image")))
    assert all(isinstance(outcome, Pulled) for outcome in outcomes)
    assert server.asked("/image")[0].time_s - server.asked("/busy")[0].time_s > 0.9


async def test_the_circuit_of_a_failing_host_opens(server: HostileServer) -> None:
    async with puller(host_failure_limit=3, max_connections_per_host=1) as one:
        outcomes = [await one.pull(server.url("/500")) for _ in range(6)]
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, RowFailure)]
    assert reasons == [Reason.HTTP_5XX] * 3 + [Reason.HOST_UNAVAILABLE] * 3
    assert len(server.asked("/500")) == 3


async def test_missing_images_do_not_open_the_circuit(server: HostileServer) -> None:
    async with puller(host_failure_limit=3) as one:
        outcomes = [await one.pull(server.url("/404")) for _ in range(6)]
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, RowFailure)} == {Reason.HTTP_404}


async def test_a_crawl_delay_is_kept(server: HostileServer) -> None:
    server.routes["/robots.txt"] = answer(b"User-agent: *\nCrawl-delay: 0.2")
    async with puller() as one:
        await asyncio.gather(*(one.pull(server.url("/image")) for _ in range(4)))
    times = [request.time_s for request in server.asked("/image")]
    assert times[-1] - times[0] >= 0.55


async def test_a_dead_host_fails_while_others_go_on(server: HostileServer) -> None:
    lookup = ListedLookup({f"host{number}.example": ["127.0.0.1"] for number in range(8)})
    async with puller(lookup) as one:
        urls = [server.url("/image", host=f"host{number % 10}.example") for number in range(30)]
        outcomes = await asyncio.gather(*(one.pull(url) for url in urls))
    failed = [outcome for outcome in outcomes if isinstance(outcome, RowFailure)]
    assert len(failed) == 6
    assert {outcome.reason for outcome in failed} == {Reason.DNS}


FAST = OutageLimits(patience_s=30.0, verdict_s=1.0, first_probe_s=0.02, longest_probe_s=0.05)


async def test_rows_that_fail_while_the_own_network_is_down_are_pulled_again(server: HostileServer) -> None:
    lookup = ListedLookup(error_code=socket.EAI_AGAIN)
    async with puller(lookup, FAST) as one:
        urls = [server.url("/image", host=f"host{number}.example") for number in range(40)]
        rows = [asyncio.ensure_future(one.pull(url)) for url in urls]
        await until(lambda: one.statistics.num_outages)
        num_asked = one.statistics.num_requests
        late = asyncio.ensure_future(one.pull(server.url("/image", host="late.example")))
        await asyncio.sleep(0.2)
        # only probes are sent meanwhile
        assert one.statistics.num_requests - num_asked < 20
        assert not any(row.done() for row in [*rows, late])

        lookup.error_code = None
        outcomes = await asyncio.gather(*rows, late)
        assert one.statistics.outage_s > 0.1
    assert all(isinstance(outcome, Pulled) for outcome in outcomes)


async def test_a_request_that_an_outage_has_cut_short_is_made_again_however_it_failed(server: HostileServer) -> None:
    lookup = ListedLookup()
    cut = asyncio.Event()

    async def cut_short(request: Request, writer: asyncio.StreamWriter) -> bool:
        if len(server.asked("/cut")) > 1:
            return await answer(DATA)(request, writer)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        await until(cut.is_set)
        return False

    server.routes["/cut"] = cut_short
    async with puller(lookup, FAST, respect_robots_txt=False, timeout=10.0, total_timeout=10.0) as one:
        row = asyncio.ensure_future(one.pull(server.url("/cut")))
        await until(lambda: server.asked("/cut"))
        lookup.error_code = socket.EAI_AGAIN
        urls = [server.url("/image", host=f"host{number}.example") for number in range(20)]
        others = [asyncio.ensure_future(one.pull(url)) for url in urls]
        await until(lambda: one.statistics.num_outages)
        lookup.error_code = None
        await asyncio.gather(*others)
        cut.set()
        assert isinstance(await row, Pulled)
    assert len(server.asked("/cut")) == 2


async def test_the_run_stops_when_the_network_does_not_come_back(server: HostileServer) -> None:
    impatient = OutageLimits(patience_s=0.1, verdict_s=1.0, first_probe_s=0.02, longest_probe_s=0.05)
    async with puller(ListedLookup(error_code=socket.EAI_AGAIN), impatient) as one:
        urls = [server.url("/image", host=f"host{number}.example") for number in range(20)]
        outcomes = await asyncio.gather(*(one.pull(url) for url in urls), return_exceptions=True)
    assert all(isinstance(outcome, NetworkOutageError) for outcome in outcomes)


async def test_names_that_do_not_exist_are_no_outage(server: HostileServer) -> None:
    async with puller(ListedLookup({}), FAST) as one:
        urls = [server.url("/image", host=f"host{number}.example") for number in range(40)]
        outcomes = await asyncio.gather(*(one.pull(url) for url in urls))
        assert one.statistics.num_outages == 0
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, RowFailure)} == {Reason.DNS}
    assert len(outcomes) == 40


async def test_hosts_that_stay_silent_at_the_end_of_a_shard_are_no_outage(server: HostileServer) -> None:
    async with puller(ListedLookup(), FAST, timeout=0.2, respect_robots_txt=False) as one:
        assert isinstance(await one.pull(server.url("/image", host="good.example")), Pulled)
        urls = [server.url("/never-answers", host=f"host{number}.example") for number in range(20)]
        outcomes = await asyncio.gather(*(one.pull(url) for url in urls))
        assert one.statistics.num_outages == 0
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, RowFailure)} == {Reason.TIMEOUT}


async def test_a_cancelled_pull_frees_its_place(server: HostileServer) -> None:
    async with puller(max_connections_per_host=1, respect_robots_txt=False) as one:
        hanging = asyncio.ensure_future(one.pull(server.url("/never-answers")))
        await until(lambda: server.requests)
        hanging.cancel()
        assert isinstance(await one.pull(server.url("/image")), Pulled)
