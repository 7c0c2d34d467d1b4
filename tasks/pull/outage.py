"""Noticing that not the hosts are down but this machine's own network is.

A failure that the own network may have caused (no name resolution, no route, no connection, silence) is suspect. Any
answer, also a bad one, proves that the network works. When suspect failures pile up over many hosts with nothing
between them, and hosts that answered before do not any more, everything pauses until something answers again, and the
rows that failed in the meantime are pulled again. So a suspect row waits for the verdict before it may fail.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from controlmill.errors import NetworkOutageError
from controlmill.logs import log, warning
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

    Attributes:
        num_ended: outages that are over; a request during which it grew has failed for nothing.
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
        self._held: dict[asyncio.Future[Verdict], None] = {}
        self._watch: asyncio.Task[None] | None = None
        self._back: asyncio.Future[None] | None = None
        self._down_since = 0.0
        self.num_ended = 0

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
        self._decide_if_all_wait()

    async def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    async def wait_until_back(self) -> None:
        """Return when requests may be made; raises `NetworkOutageError` when patience has run out."""
        if self._back is not None:
            await asyncio.shield(self._back)

    def answered(self) -> None:
        """Something answered: the network works."""
        if self._num_suspect == 0:
            return
        self._num_suspect = 0
        self._hosts.clear()
        verdict = Verdict.REAL if self._back is None else Verdict.AGAIN
        for held in self._held:
            _settle(held, verdict)
        watch, self._watch = self._watch, None
        if watch is not None and watch is not asyncio.current_task():
            watch.cancel()
        if self._back is not None:
            self._statistics.outage_s += self._clock.now() - self._down_since
            log("network_is_back", after_s=round(self._clock.now() - self._down_since, 1))
            self._back.set_result(None)
            self._back = None
            self.num_ended += 1

    def suspect(self, host: str) -> None:
        """A request failed in a way that the own network may have caused."""
        self._num_suspect += 1
        self._hosts.add(host)
        if self._num_suspect >= self._limits.num_failures and len(self._hosts) >= self._limits.num_hosts:
            self._start_watching()

    async def verdict(self) -> Verdict:
        """What to do with a row whose last request was `suspect`; raises `NetworkOutageError`."""
        if self._num_suspect == 0:
            return Verdict.REAL
        if self._back is not None and self._back.done():
            self._back.result()
        held: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._held[held] = None
        timer = asyncio.get_running_loop().call_later(self._limits.verdict_s, self._decide, held)
        self._decide_if_all_wait()
        try:
            return await held
        finally:
            timer.cancel()
            self._held.pop(held, None)

    def _decide_if_all_wait(self) -> None:
        """Nobody is left who could prove that the network works: decide on what is known."""
        if self._watch is None and self._held and len(self._held) >= self._num_pulling:
            for held in list(self._held):
                self._decide(held)

    def _decide(self, held: asyncio.Future[Verdict]) -> None:
        if len(self._hosts) >= self._limits.num_hosts:
            self._start_watching()
        elif self._watch is None:
            _settle(held, Verdict.REAL)

    def _start_watching(self) -> None:
        if self._watch is None and self._back is None:
            self._watch = asyncio.ensure_future(self._watch_network())

    async def _watch_network(self) -> None:
        if await self._is_network_up():
            self.answered()
            return
        self._go_down()
        wait_s = self._limits.first_probe_s
        while (left_s := self._down_since + self._limits.patience_s - self._clock.now()) > 0:
            await self._clock.sleep(min(wait_s, left_s))
            wait_s = min(2 * wait_s, self._limits.longest_probe_s)
            if await self._is_network_up():
                self.answered()
                return
            if self._held:
                # the one that has waited longest; when it fails again, it goes to the end of the queue
                probe = next(iter(self._held))
                del self._held[probe]
                _settle(probe, Verdict.PROBE)
        self._give_up()

    def _go_down(self) -> None:
        self._down_since = self._clock.now()
        self._back = asyncio.get_running_loop().create_future()
        self._statistics.num_outages += 1
        warning("network_outage", failures=self._num_suspect, hosts=len(self._hosts), rows_held=len(self._held))

    def _give_up(self) -> None:
        error = NetworkOutageError(
            f"no network for {self._limits.patience_s:.0f} s: {self._num_suspect} requests to {len(self._hosts)} hosts "
            "failed and none was answered. No row was marked as failed; run the same command again to go on"
        )
        for held in self._held:
            if not held.done():
                held.set_exception(error)
        if self._back is not None:
            self._back.set_exception(error)
            self._back.exception()  # whoever comes later raises it; until then nobody has to


def _settle(held: asyncio.Future[Verdict], verdict: Verdict) -> None:
    if not held.done():
        held.set_result(verdict)
