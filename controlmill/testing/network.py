"""A clock and a name service that do as a test tells them."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_TURNS = 10


async def until(condition: Callable[[], object], limit_s: float = 60.0) -> None:
    """Return as soon as `condition` holds; for what happens in another thread, or has no event of its own."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110, there is nothing to wait on
            await asyncio.sleep(0.001)


class SkippingClock:
    """A clock on which nobody waits: sleeping moves it on."""

    def __init__(self) -> None:
        self._now = 1000.0

    def now(self) -> float:
        """Seconds."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Move on to the end of the sleep, and let others run."""
        end = self._now + seconds
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        self._now = max(self._now, end)

    def skip(self, seconds: float) -> None:
        """Move on."""
        self._now += seconds


@dataclass
class ListedLookup:
    """Knows the names in `addresses`, by default all names, at 127.0.0.1; fails with `error_code` while that is set.

    A name that is not listed does not exist (`EAI_NONAME`).
    """

    addresses: Mapping[str, list[str]] | None = None
    error_code: int | None = None
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, _port: int) -> list[str]:
        """The addresses of `host`; raises `socket.gaierror`."""
        self.asked.append(host)
        await asyncio.sleep(0)
        if self.error_code is not None:
            raise socket.gaierror(self.error_code, "as the test wants it")
        if self.addresses is None:
            return ["127.0.0.1"]
        if host not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return self.addresses[host]

    def close(self) -> None:
        """Nothing is held."""
