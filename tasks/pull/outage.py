"""Noticing that not the hosts are down but this machine's own network is.

A failure that the own network may have caused (no name resolution, no route, no connection, silence) is suspect. Any
answer, also a bad one, proves that the network works. When suspect failures pile up over many hosts with nothing
between them, and hosts that answered before do not any more, everything pauses until something answers again, and the
rows that failed in the meantime are pulled again. So a suspect row waits for the verdict before it may fail.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from controlmill.errors import NetworkOutageError
from controlmill.logs import info, warning
from tasks.pull.clock import Clock
from tasks.pull.statistics import PullStatistics


class Verdict(Enum):
    """What becomes of a row that failed in a way that may be the own network's fault."""

    REAL = "the network works: the failure is the host's"
    AGAIN = "the network was down: pull the row again"
    PROBE = "the network seems to be down: pull the row now, to see whether it is back"


@dataclass(frozen=True, slots=True)
class OutageLimits:
    """When an outage is believed in.

    Attributes:
        num_failures: suspect failures in a row.
        num_hosts: different hosts among them.
        verdict_s: longest time that a suspect row waits while other requests may still prove that the network works.
        first_probe_s: time to the first probe; each later one waits twice as long,
        longest_probe_s: up to this.
        patience_s: length of an outage after which the run stops.
    """

    patience_s: float
    verdict_s: float
    num_failures: int = 16
    num_hosts: int = 6
    first_probe_s: float = 1.0
    longest_probe_s: float = 30.0


class Outage:
    """Hears of every answer and every suspect failure, and gives the verdicts.

    Args:
        is_network_up: asks hosts that answered before (`tasks.pull.canary`); True as soon as one still does.
    """

    def __init__(
        self,
        limits: OutageLimits,
        clock: Clock,
        statistics: PullStatistics,
        is_network_up: Callable[[], Awaitable[bool]],
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._statistics = statistics
        self._is_network_up = is_network_up
        self._num_suspect = 0
        self._hosts: set[str] = set()
        self._num_pulling = 0
        self._suspects: deque[asyncio.Future[Verdict]] = deque()
        self._probe_ended = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._back: asyncio.Future[None] | None = None

    @property
    def is_down(self) -> bool:
        """Whether requests are paused."""
        return self._back is not None

    def begin(self) -> None:
        """A row is being pulled."""
        self._num_pulling += 1

    def end(self) -> None:
        """A row has got its result."""
        self._num_pulling -= 1
        self._probe_ended.set()
        self._decide_if_all_wait()

    async def wait_until_back(self) -> None:
        """Return when requests may be made; raises `NetworkOutageError` when patience has run out."""
        if self._back is not None:
            await asyncio.shield(self._back)

    def answered(self) -> None:
        """Something answered: the network works."""
        if self._num_suspect:
            self._num_suspect = 0
            self._hosts.clear()
            self._settle()

    def suspect(self, host: str) -> None:
        """A request failed in a way that the own network may have caused."""
        self._num_suspect += 1
        self._hosts.add(host)
        if self._num_suspect >= self._limits.num_failures and len(self._hosts) >= self._limits.num_hosts:
            self._start_watching()

    async def verdict(self) -> Verdict:
        """What to do with a row whose last request was `suspect`; raises `NetworkOutageError`."""
        if self._num_suspect == 0 and not self.is_down:
            return Verdict.REAL
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._suspects.append(future)
        self._probe_ended.set()
        self._decide_if_all_wait()
        try:
            if not self.is_down and self._watch is None:
                timer = asyncio.get_running_loop().call_later(self._limits.verdict_s, self._decide)
                try:
                    return await future
                finally:
                    timer.cancel()
            return await future
        finally:
            if future in self._suspects:
                self._suspects.remove(future)
