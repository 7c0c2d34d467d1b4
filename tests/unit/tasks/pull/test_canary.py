import socket

import pytest

from controlmill.testing.http_server import HttpServer
from controlmill.testing.network import ListedLookup, until
from tasks.pull.canary import Canary
from tasks.pull.guard import Guard

EVERYTHING = Guard(lambda _: True)


@pytest.mark.parametrize(("error_code", "is_up"), [(socket.EAI_NONAME, True), (None, True), (socket.EAI_AGAIN, False)])
async def test_before_any_answer_the_name_service_is_asked(error_code: int | None, *, is_up: bool) -> None:
    lookup = ListedLookup(error_code=error_code)
    assert await Canary(lookup, EVERYTHING, 1.0).is_network_up() is is_up
    assert lookup.asked[0].endswith(".example.com")


async def test_no_name_is_asked_for_twice_so_that_no_cache_answers() -> None:
    lookup = ListedLookup()
    canary = Canary(lookup, EVERYTHING, 1.0)
    await canary.is_network_up()
    await canary.is_network_up()
    assert len(set(lookup.asked)) == 2


async def test_a_host_that_answered_is_connected_to_and_not_asked_for_anything() -> None:
    with HttpServer() as server:
        canary = Canary(ListedLookup(), EVERYTHING, 1.0)
        canary.remember("images.example", server.port)
        assert await canary.is_network_up()
        await until(lambda: server.num_connections == 1)
    assert server.requests == []


async def test_a_host_that_refuses_is_there() -> None:
    with HttpServer() as server:
        pass
    canary = Canary(ListedLookup(), EVERYTHING, 1.0)
    canary.remember("127.0.0.1", server.port)
    assert await canary.is_network_up()


async def test_a_host_whose_name_cannot_be_resolved_proves_nothing() -> None:
    lookup = ListedLookup(error_code=socket.EAI_AGAIN)
    canary = Canary(lookup, EVERYTHING, 1.0)
    for number in range(20):
        canary.remember(f"host{number}.example", 80)
    assert not await canary.is_network_up()
    assert sorted(name.partition(".")[2] for name in lookup.asked) == [f"host{n}.example" for n in (17, 18, 19)]


async def test_a_forbidden_address_is_not_connected_to() -> None:
    with HttpServer() as server:
        canary = Canary(ListedLookup(), Guard(), 1.0)
        canary.remember("rebound.example", server.port)
        assert not await canary.is_network_up()
        assert server.num_connections == 0
