"""What each host may be asked at the same time, per second, and while it is failing."""

import asyncio
from collections import deque
from dataclasses import dataclass

from controlmill.reasons import Reason
from tasks.pull.clock import Clock
from tasks.pull.failures import Failure

_SWEEP_EVERY = 1024


@dataclass(frozen=True, slots=True)
class HostLimits:
    """Limits of one host.

    Attributes:
        max_in_flight: requests at the same time.
        spacing_s: seconds between the starts of two requests (a token bucket that holds one token).
        failure_limit: failures in a row after which the host is left alone.
        cooldown_s: for how long; then one request tries whether it works again.
        max_hold_s: longest time that a host may keep us waiting with Retry-After.
    """

    max_in_flight: int
    spacing_s: float
    failure_limit: int
    cooldown_s: float
    max_hold_s: float


class _Host:
    __slots__ = ("closed_until", "failures", "hold_until", "in_flight", "next_start", "spacing_s", "trial", "waiting")

    def __init__(self, spacing_s: float) -> None:
        self.in_flight = 0
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.spacing_s = spacing_s
        self.next_start = 0.0
        self.hold_until = 0.0
        self.failures = 0
        self.closed_until = 0.0
        self.trial = False


@dataclass(frozen=True, slots=True)
class Turn:
    """The right to ask a host now; to be given back with `Hosts.leave`."""

    name: str
    host: _Host
    is_trial: bool


class Hosts:
    """The state of every host in use; that of an idle one is forgotten as soon as it says nothing any more."""

    def __init__(self, limits: HostLimits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._hosts: dict[str, _Host] = {}
        self._since_sweep = 0

    def __len__(self) -> int:
        return len(self._hosts)

    async def enter(self, name: str) -> Turn | Failure:
        """Wait for one's turn at the host, in the order of asking; a failure means that it must not be asked now."""
        host = self._host(name)
        if refusal := self._refusal(host, name):
            return refusal
        await self._take_place(name, host)
        try:
            await self._wait_for_start(host)
            refusal = self._refusal(host, name)
        except BaseException:
            self._give_place(name, host)
            raise
        if refusal:
            self._give_place(name, host)
            return refusal
        host.trial = self._has_tripped(host)
        return Turn(name, host, host.trial)

    def leave(self, turn: Turn) -> None:
        """End one's turn: the next in the queue goes in."""
        if turn.is_trial:
            turn.host.trial = False
        self._give_place(turn.name, turn.host)

    def succeeded(self, name: str) -> None:
        """The host has answered as a host that works does."""
        host = self._hosts.get(name)
        if host is not None:
            host.failures = 0
            host.closed_until = 0.0

    def failed(self, name: str) -> None:
        """The host has failed once more in a row; at the limit its circuit opens."""
        host = self._host(name)
        host.failures += 1
        host.closed_until = self._clock.now() + self._limits.cooldown_s

    def hold(self, name: str, seconds: float) -> None:
        """Leave the host alone for as long as it asked."""
        host = self._host(name)
        host.hold_until = max(host.hold_until, self._clock.now() + seconds)

    def slow_down(self, name: str, spacing_s: float) -> None:
        """Keep at least this long between two requests to the host."""
        host = self._host(name)
        host.spacing_s = max(host.spacing_s, spacing_s)

    def _host(self, name: str) -> _Host:
        host = self._hosts.get(name)
        if host is None:
            self._since_sweep += 1
            if self._since_sweep >= _SWEEP_EVERY:
                self._sweep()
            host = self._hosts[name] = _Host(self._limits.spacing_s)
        return host

    def _has_tripped(self, host: _Host) -> bool:
        return host.failures >= self._limits.failure_limit

    def _refusal(self, host: _Host, name: str) -> Failure | None:
        now = self._clock.now()
        if self._has_tripped(host) and (now < host.closed_until or host.trial):
            message = f"{name} failed {host.failures} times in a row and is left alone for a while"
            return Failure(Reason.HOST_UNAVAILABLE, message)
        if host.hold_until - now > self._limits.max_hold_s:
            message = f"{name} asked not to be asked again for {host.hold_until - now:.0f} s"
            return Failure(Reason.HOST_UNAVAILABLE, message)
        return None

    async def _take_place(self, name: str, host: _Host) -> None:
        if host.in_flight < self._limits.max_in_flight:
            host.in_flight += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        host.waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # the place was handed over in the same moment
            if turn.done() and not turn.cancelled():
                self._give_place(name, host)
            raise

    def _give_place(self, name: str, host: _Host) -> None:
        while host.waiting:
            turn = host.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        host.in_flight -= 1
        if self._is_forgettable(host):
            self._hosts.pop(name, None)

    async def _wait_for_start(self, host: _Host) -> None:
        """Wait until a hold is over, unless that takes too long, and for the next start that is not taken."""
        while (left_s := host.hold_until - self._clock.now()) <= self._limits.max_hold_s:
            if left_s > 0:
                await self._clock.sleep(left_s)
                continue
            now = self._clock.now()
            start = max(now, host.next_start)
            host.next_start = start + host.spacing_s
            if start > now:
                await self._clock.sleep(start - now)
            if host.hold_until <= self._clock.now():
                return

    def _is_forgettable(self, host: _Host) -> bool:
        if host.in_flight or host.waiting or host.failures:
            return False
        now = self._clock.now()
        return host.next_start <= now and host.hold_until <= now and host.spacing_s == self._limits.spacing_s

    def _sweep(self) -> None:
        self._since_sweep = 0
        now = self._clock.now()
        for name, host in list(self._hosts.items()):
            is_idle = not host.in_flight and not host.waiting
            if is_idle and max(host.next_start, host.hold_until, host.closed_until) <= now:
                del self._hosts[name]
