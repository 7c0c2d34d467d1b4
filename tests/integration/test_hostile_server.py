"""Every way in which the web misbehaves ends with the right reason, in bounded time and memory."""

import asyncio
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from controlmill.config.pull import PullOptions
from controlmill.reasons import Reason, RowFailure
from controlmill.testing.hostile_server import HostileServer, tiny_png
from tasks.pull.guard import Guard
from tasks.pull.pull import Pulled, Puller, Surroundings

TIMEOUT_S = 2.0
TOTAL_S = 6.0
MAX_BYTES = 8 * 1024 * 1024
OPTIONS = PullOptions(
    timeout=TIMEOUT_S,
    total_timeout=TOTAL_S,
    max_bytes=MAX_BYTES,
    allow_private_networks=True,
    host_failure_limit=1000,
)
# the server itself may be asked, and nothing else that is not public
ONLY_THE_SERVER = Surroundings(guard=Guard(lambda address: str(address) == "127.0.0.1"))

REASONS = {
    "/slow-drip": Reason.TIMEOUT,
    "/never-answers": Reason.TIMEOUT,
    "/endless-body": Reason.TOO_LARGE,
    "/wrong-content-length": Reason.TRUNCATED,
    "/redirect-loop": Reason.TOO_MANY_REDIRECTS,
    "/redirect-to-private": Reason.FORBIDDEN_ADDRESS,
    "/redirect-to-metadata": Reason.FORBIDDEN_ADDRESS,
    "/redirect-to-file": Reason.FORBIDDEN_ADDRESS,
    "/gzip-bomb": Reason.TOO_LARGE,
    "/brotli": Reason.NOT_AN_IMAGE,
    "/noai": Reason.OPT_OUT,
    "/disallowed/image.png": Reason.ROBOTS_TXT,
    "/429?after=60": Reason.HTTP_429,
    "/503?after=60": Reason.HTTP_5XX,
    "/404": Reason.HTTP_404,
    "/410": Reason.HTTP_4XX,
    "/500": Reason.HTTP_5XX,
    "/reset": Reason.CONNECTION,
    "/not-http": Reason.CONNECTION,
}
PICTURES = ("/tiny.png", "/redirect", "/gzipped.png", "/noai-for-another")
FOR_THE_DECODER = ("/huge-dimensions.png", "/truncated.jpg", "/html-as.jpg", "/empty.jpg")


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer() as server:
        yield server


async def pull(server: HostileServer, path: str, options: PullOptions = OPTIONS) -> Pulled | RowFailure:
    async with Puller(options, surroundings=ONLY_THE_SERVER) as puller:
        return await puller.pull(server.url(path))


@pytest.mark.parametrize(("path", "reason"), REASONS.items())
async def test_each_misbehaviour_has_its_reason_in_bounded_time(
    server: HostileServer, path: str, reason: Reason
) -> None:
    began = time.monotonic()
    outcome = await pull(server, path)
    assert isinstance(outcome, RowFailure)
    assert outcome.reason is reason
    assert outcome.message
    assert "http://" not in outcome.message
    assert time.monotonic() - began < 2 * TOTAL_S


@pytest.mark.parametrize("path", PICTURES)
async def test_harmless_oddities_give_the_picture(server: HostileServer, path: str) -> None:
    outcome = await pull(server, path)
    assert isinstance(outcome, Pulled)
    assert outcome.data == tiny_png()


@pytest.mark.parametrize("path", FOR_THE_DECODER)
async def test_bad_pictures_are_left_to_the_decoder(server: HostileServer, path: str) -> None:
    assert isinstance(await pull(server, path), Pulled)


async def test_what_comes_after_the_content_length_is_not_taken_for_picture(server: HostileServer) -> None:
    outcome = await pull(server, "/longer-than-said")
    assert isinstance(outcome, RowFailure) or outcome.data == tiny_png()


async def test_a_whole_list_of_them_is_done_in_the_time_of_one_and_in_little_memory(server: HostileServer) -> None:
    # a host that asks to be left alone for 60 s is left alone, so these two would end all others
    reasons = {path: reason for path, reason in REASONS.items() if not path.endswith("after=60")}
    paths = [*reasons, *PICTURES, *FOR_THE_DECODER] * 4
    began = time.monotonic()
    tracemalloc.start()
    async with Puller(OPTIONS, surroundings=ONLY_THE_SERVER) as puller:
        outcomes = await asyncio.gather(*(puller.pull(server.url(path)) for path in paths))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.monotonic() - began < 6 * TOTAL_S
    # 4 endless bodies and 4 bombs, each let in up to max_bytes
    assert peak_bytes < 8 * MAX_BYTES + 16 * 1024 * 1024
    for path, outcome in zip(paths, outcomes, strict=True):
        assert (outcome.reason if isinstance(outcome, RowFailure) else None) == reasons.get(path), path


async def test_a_host_that_asks_to_wait_is_waited_for(server: HostileServer) -> None:
    options = OPTIONS.model_copy(update={"retries": 2, "total_timeout": 10.0})
    outcome = await pull(server, "/429?after=1", options)
    assert isinstance(outcome, Pulled)
    assert outcome.attempts == 2
    first, second = server.asked("/429")
    assert 1.0 <= second.time_s - first.time_s < 3.0


async def test_broken_connections_are_tried_again(server: HostileServer) -> None:
    outcome = await pull(server, "/flaky?failures=2", OPTIONS.model_copy(update={"retries": 3, "total_timeout": 20.0}))
    assert isinstance(outcome, Pulled)
    assert outcome.attempts == 3
    assert len(server.asked("/flaky")) == 3


async def test_a_missing_image_is_asked_for_once_only(server: HostileServer) -> None:
    outcome = await pull(server, "/404", OPTIONS.model_copy(update={"retries": 5}))
    assert isinstance(outcome, RowFailure)
    assert (outcome.http_status, outcome.attempts) == (404, 1)
    assert len(server.asked("/404")) == 1


async def test_an_opted_out_body_is_not_fetched(server: HostileServer) -> None:
    async with Puller(OPTIONS) as puller:
        await puller.pull(server.url("/noai"))
        assert puller.statistics.num_opted_out == 1
        assert puller.statistics.num_bytes_spared == len(tiny_png())


async def test_nothing_that_robots_txt_forbids_is_asked_for(server: HostileServer) -> None:
    await pull(server, "/disallowed/image.png")
    assert [request.path for request in server.requests] == ["/robots.txt"]
