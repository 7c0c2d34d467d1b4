import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from controlmill.config.pull import PullOptions
from controlmill.reasons import Reason, RowFailure
from controlmill.testing.http_server import HttpServer, answer
from controlmill.testing.network import ListedLookup
from tasks.pull.guard import Guard
from tasks.pull.pull import Pulled, Puller, Surroundings

OPTIONS = PullOptions(timeout=20.0, total_timeout=30.0)
MY_BOT: dict[str, Any] = {"user_agent_token": "MyBot"}
LOOPBACK = Guard(lambda address: str(address) == "127.0.0.1")


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer({"/image": answer(b"image")}) as server:
        yield server


@contextlib.asynccontextmanager
async def puller(lookup: ListedLookup | None = None, **options: object) -> AsyncIterator[Puller]:
    surroundings = Surroundings(lookup=lambda: lookup or ListedLookup(), guard=LOOPBACK)
    async with Puller(OPTIONS.model_copy(update=options), surroundings=surroundings) as one:
        yield one


def redirect(server: HttpServer, path: str, location: str) -> None:
    server.routes[path] = answer(status="302 Found", headers={"Location": location})


async def test_redirects_are_followed_to_other_hosts_and_told(server: HttpServer) -> None:
    redirect(server, "/a", server.url("/b", host="two.example"))
    redirect(server, "/b", "/image")
    async with puller() as one:
        pulled = await one.pull(server.url("/a", host="one.example"))
        assert isinstance(pulled, Pulled)
        assert pulled.final_url == server.url("/image", host="two.example")
        assert one.statistics.num_redirects == 2


@pytest.mark.parametrize(("max_redirects", "reason"), [(3, None), (2, Reason.TOO_MANY_REDIRECTS)])
async def test_redirects_are_bounded(server: HttpServer, max_redirects: int, reason: Reason | None) -> None:
    for number in range(3):
        redirect(server, f"/{number}", f"/{number + 1}" if number < 2 else "/image")
    async with puller(max_redirects=max_redirects) as one:
        outcome = await one.pull(server.url("/0"))
    assert (outcome.reason if isinstance(outcome, RowFailure) else None) is reason
    assert len(server.asked("/image")) == (1 if reason is None else 0)


async def test_a_circle_of_redirects_is_noticed_before_the_limit(server: HttpServer) -> None:
    redirect(server, "/a", "/b")
    redirect(server, "/b", "/a")
    async with puller(max_redirects=100) as one:
        outcome = await one.pull(server.url("/a"))
    assert isinstance(outcome, RowFailure)
    assert outcome.reason is Reason.TOO_MANY_REDIRECTS
    assert len(server.asked("/a")) == 1


async def test_a_name_that_resolves_to_a_private_address_is_refused_on_every_hop(server: HttpServer) -> None:
    lookup = ListedLookup({"good.example": ["127.0.0.1"], "evil.example": ["127.0.0.1", "10.0.0.1"]})
    redirect(server, "/a", "http://evil.example/secret")
    async with puller(lookup) as one:
        for url in (server.url("/a", host="good.example"), server.url("/image", host="evil.example")):
            outcome = await one.pull(url)
            assert isinstance(outcome, RowFailure)
            assert outcome.reason is Reason.FORBIDDEN_ADDRESS
            assert "10.0.0.1" in outcome.message
    assert server.asked("/image") == []


async def test_the_robots_txt_of_every_host_on_the_way_counts(server: HttpServer) -> None:
    server.routes["/robots.txt"] = answer(b"User-agent: *\nDisallow: /image")
    redirect(server, "/a", server.url("/image", host="two.example"))
    async with puller() as one:
        outcome = await one.pull(server.url("/a", host="one.example"))
        assert isinstance(outcome, RowFailure)
        assert outcome.reason is Reason.ROBOTS_TXT
        assert (one.statistics.num_robots_txt, one.statistics.num_opted_out) == (2, 1)
    async with puller(respect_robots_txt=False) as one:
        assert isinstance(await one.pull(server.url("/a", host="one.example")), Pulled)


async def test_x_robots_tag_can_be_ignored(server: HttpServer) -> None:
    server.routes["/image"] = answer(b"image", headers={"X-Robots-Tag": "mybot: noai"})
    async with puller(**MY_BOT) as one:
        outcome = await one.pull(server.url("/image"))
        assert isinstance(outcome, RowFailure)
        assert outcome.reason is Reason.OPT_OUT
        assert one.statistics.num_bytes_spared == len(b"image")
    async with puller(**MY_BOT, disallowed_header_directives=()) as one:
        assert isinstance(await one.pull(server.url("/image")), Pulled)
