import ipaddress
import socket

import pytest
from yarl import URL

from controlmill.reasons import Reason
from controlmill.testing.network import ListedLookup
from tasks.pull.failures import Failure, ForbiddenAddressError
from tasks.pull.guard import Guard, GuardedResolver, ThreadedLookup, is_public, literal_address

PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
NOT_PUBLIC = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.1.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fc00::1",
    "fd12::1",
    "fec0::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "2001:db8::1",
]
METADATA = ["169.254.169.254", "fd00:ec2::254", "100.100.100.200", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))
    assert Guard().allows(address)


@pytest.mark.parametrize("address", NOT_PUBLIC + METADATA)
def test_every_other_address_is_refused(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    assert not Guard().allows(address)


@pytest.mark.parametrize("address", METADATA)
def test_metadata_services_are_refused_even_when_private_networks_are_allowed(address: str) -> None:
    everything = Guard(lambda _: True)
    assert everything.allows("10.0.0.1")
    assert not everything.allows(address)


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "127.1",
        "0177.0.0.1",
        "127.0.0.1.",
        "[::1]",
        "0",
        "127。0。0。1",
    ],
)
def test_every_way_to_write_a_loopback_address_is_seen_through(host: str) -> None:
    refused = Guard().parse(f"http://{host}/a.jpg")
    assert isinstance(refused, Failure)
    assert refused.reason is Reason.FORBIDDEN_ADDRESS


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.INVALID_URL),
        ("example.org/a.jpg", Reason.INVALID_URL),
        ("//example.org/a.jpg", Reason.INVALID_URL),
        ("http://", Reason.INVALID_URL),
        ("http:///a.jpg", Reason.INVALID_URL),
        ("http://example.org:99999/", Reason.INVALID_URL),
        ("http://[::1/", Reason.INVALID_URL),
        ("http://exa mple.org/", Reason.INVALID_URL),
        ("http://exa\x00mple.org/", Reason.INVALID_URL),
        ("file:///etc/passwd", Reason.INVALID_URL),
        ("ftp://example.org/a.jpg", Reason.INVALID_URL),
        ("data:image/png;base64,AAAA", Reason.INVALID_URL),
        ("javascript:alert(1)", Reason.INVALID_URL),
    ],
)
def test_what_is_no_http_url_is_refused(text: str, reason: Reason) -> None:
    refused = Guard().parse(text)
    assert isinstance(refused, Failure)
    assert refused.reason is reason


@pytest.mark.parametrize(
    "text",
    ["http://example.org/a.jpg", " https://exämple.org/ä b.jpg?x=1 ", "http://under_score.org/", "http://8.8.8.8/"],
)
def test_ordinary_urls_pass(text: str) -> None:
    assert isinstance(Guard().parse(text), URL)


def test_names_are_not_taken_for_addresses() -> None:
    assert literal_address("example.org") is None
    assert literal_address("1.2.3.4.example.org") is None
    assert literal_address("fe80::1%25eth0") == "fe80::1%eth0"


async def test_the_connection_gets_exactly_the_addresses_that_were_checked() -> None:
    lookup = ListedLookup({"example.org": ["8.8.8.8", "2606:4700::1111"]})
    resolver = GuardedResolver(lookup, Guard())
    results = await resolver.resolve("example.org", 443)
    assert [(result["host"], result["port"], result["family"]) for result in results] == [
        ("8.8.8.8", 443, socket.AF_INET),
        ("2606:4700::1111", 443, socket.AF_INET6),
    ]
    assert [result["host"] for result in await resolver.resolve("example.org", 443, socket.AF_INET6)] == [
        "2606:4700::1111"
    ]


async def test_one_private_address_among_public_ones_refuses_the_name() -> None:
    resolver = GuardedResolver(ListedLookup({"evil.example": ["8.8.8.8", "10.0.0.1"]}), Guard())
    with pytest.raises(ForbiddenAddressError, match=r"evil\.example leads to 10\.0\.0\.1"):
        await resolver.resolve("evil.example", 80)


async def test_the_systems_resolver_is_used_in_threads() -> None:
    lookup = ThreadedLookup()
    try:
        assert set(await lookup("localhost", 80)) <= {"127.0.0.1", "::1"}
    finally:
        lookup.close()
