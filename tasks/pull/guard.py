"""Which addresses may be connected to, so that a list of URLs cannot make this machine talk to its own network.

A name is resolved once, all its addresses are checked, and the connection goes to exactly those: an answer that
changes between check and use (DNS rebinding) changes nothing.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol
from urllib.parse import unquote

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from controlmill.reasons import Reason
from tasks.pull.failures import Failure, ForbiddenAddressError

Address = IPv4Address | IPv6Address

_NUM_LOOKUP_THREADS = 64
_HOST = re.compile(r"[A-Za-z0-9._~%:\-]+")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# every machine of a cloud finds its secrets there: AWS, GCP, Azure and most others; AWS; Alibaba; Oracle; Azure
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in ("169.254.169.254", "169.254.170.2", "fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16")
)


class Lookup(Protocol):
    """Resolves names."""

    async def __call__(self, host: str, port: int, /) -> list[str]:
        """The addresses of `host` as text; raises `socket.gaierror`."""

    def close(self) -> None:
        """Give back what it holds."""


class ThreadedLookup:
    """The resolver of the system, in threads of its own: dead names take long, and must not block other work."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_NUM_LOOKUP_THREADS, thread_name_prefix="dns")

    async def __call__(self, host: str, port: int) -> list[str]:
        """The addresses of `host`; raises `socket.gaierror`."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _getaddrinfo, host, port)
        return list(dict.fromkeys(found))

    def close(self) -> None:
        """Let the threads end; a lookup that hangs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _getaddrinfo(host: str, port: int) -> list[str]:
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [str(info[4][0]) for info in infos]


def is_public(address: Address) -> bool:
    """Whether `address` is globally routable, unicast, and no door to an IPv4 address that is not."""
    if isinstance(address, IPv6Address):
        embedded = embedded_ipv4(address)
        if embedded is not None:
            return is_public(embedded)
        if address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def embedded_ipv4(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that packets to `address` end at: mapped, 6to4 (RFC 3056), NAT64 (RFC 6052)."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


class Guard:
    """Checks URLs and addresses.

    Args:
        is_allowed: decides about an address; cloud metadata services are refused whatever it says.
    """

    def __init__(self, is_allowed: Callable[[Address], bool] = is_public) -> None:
        self._is_allowed = is_allowed
        # literal addresses are asked about with every URL
        self.allows = lru_cache(maxsize=4096)(self._allows)

    def _allows(self, address: str) -> bool:
        """Whether the address, given as text, may be connected to."""
        parsed = ipaddress.ip_address(address)
        bare = embedded_ipv4(parsed) if isinstance(parsed, IPv6Address) else None
        if parsed in _METADATA or bare in _METADATA:
            return False
        return self._is_allowed(parsed)

    def parse(self, text: str) -> URL | Failure:
        """The URL in `text`, or why it cannot be pulled; names are checked later, when they are resolved."""
        try:
            url = URL(text.strip())
            host, port = url.raw_host, url.port
        except ValueError:
            return Failure(Reason.INVALID_URL, "not a URL")
        if url.scheme and url.scheme not in ("http", "https"):
            return Failure(Reason.INVALID_URL, f"only http and https are pulled, this is {url.scheme[:20]}:")
        if not url.scheme or not host or not port or not _HOST.fullmatch(host):
            return Failure(Reason.INVALID_URL, "not a URL with http:// or https:// and a host")
        return self._checkliteral_address(host) or url

    def _checkliteral_address(self, host: str) -> Failure | None:
        address = literal_address(host)
        if address is None or self.allows(address):
            return None
        return Failure(Reason.FORBIDDEN_ADDRESS, f"{host} is not a public address")


@lru_cache(maxsize=4096)
def literal_address(host: str) -> str | None:
    """The address in a URL whose host is no name, in decimal, hexadecimal and octal forms too, as `inet_aton` reads."""
    host = unquote(host.rstrip("."))
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


class GuardedResolver(AbstractResolver):
    """Gives aiohttp's connector the addresses of a name, all of them checked."""

    def __init__(self, lookup: Lookup, guard: Guard) -> None:
        self._lookup = lookup
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of `host`; raises `ForbiddenAddressError` if one is not allowed, `OSError` without any."""
        addresses = await self._lookup(host, port)
        for address in addresses:
            if not self._guard.allows(address):
                raise ForbiddenAddressError(f"{host} leads to {address}, which is not a public address")
        return [_result(host, address, port) for address in addresses if _fits(address, family)]

    async def close(self) -> None:
        """End the lookups."""
        self._lookup.close()


def _fits(address: str, family: socket.AddressFamily) -> bool:
    return family == socket.AF_UNSPEC or (family == socket.AF_INET6) == (":" in address)


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=flags)
