"""Asking the network itself whether it works, apart from the rows that are to be pulled."""

import asyncio
import secrets
import socket

from tasks.pull.guard import Guard, Lookup, literal_address

_NUM_REMEMBERED = 8
_NUM_ASKED = 3
_RESERVED_NAME = "example.com"


class Canary:
    """Remembers hosts that answered, and finds out whether one of them can still be reached.

    For each of the last few: a lookup of a name below it that nobody has asked for before, which no cache can answer
    (that there is no such name is an answer), then a TCP connection, without a request. While no host has answered
    yet, only such a lookup below example.com, which is reserved for uses like this (RFC 2606).
    """

    def __init__(self, lookup: Lookup, guard: Guard, timeout_s: float) -> None:
        self._lookup = lookup
        self._guard = guard
        self._timeout_s = timeout_s
        self._answered: dict[str, int] = {}

    def remember(self, host: str, port: int) -> None:
        """The host has just answered a request."""
        self._answered.pop(host, None)
        self._answered[host] = port
        if len(self._answered) > _NUM_REMEMBERED:
            del self._answered[next(iter(self._answered))]

    async def is_network_up(self) -> bool:
        """Whether something out there answers; takes at most the timeout."""
        last = list(self._answered.items())[-_NUM_ASKED:]
        checks = [self._can_reach(host, port) for host, port in last] or [self._can_resolve_below(_RESERVED_NAME)]
        return any(await asyncio.gather(*checks))

    async def _can_reach(self, host: str, port: int) -> bool:
        try:
            async with asyncio.timeout(self._timeout_s):
                address = literal_address(host)
                if address is None:
                    if not await self._can_resolve_below(host):
                        return False
                    address = (await self._lookup(host, port))[0]
                return self._guard.allows(address) and await _can_connect(address, port)
        except OSError:
            return False

    async def _can_resolve_below(self, name: str) -> bool:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._lookup(f"{secrets.token_hex(6)}.{name}", 80)
        except socket.gaierror as error:
            return error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
        except OSError:
            return False
        return True


async def _can_connect(address: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(address, port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return True
