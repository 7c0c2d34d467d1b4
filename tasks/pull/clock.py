"""Time as this part sees it: one seam, so that tests of hours of waiting take milliseconds."""

import asyncio
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock and a way to wait on it."""

    def now(self) -> float:
        """Seconds since some moment."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""


class LoopClock:
    """The clock of the running event loop."""

    def now(self) -> float:
        """Seconds, as `loop.time()` counts them."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        await asyncio.sleep(seconds)


class Deadline:
    """The moment at which one URL has taken too long; waiting for one's turn at a host moves it away."""

    __slots__ = ("at",)

    def __init__(self, at: float) -> None:
        self.at = at

    def extend(self, seconds: float) -> None:
        """Do not count `seconds` that were spent in a queue."""
        self.at += seconds
