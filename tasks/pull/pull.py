"""Pulling images: the one entry to this package.

async with Puller(options) as puller:
    pulled = await puller.pull("https://example.org/a.jpg")
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from controlmill.config.pull import PullOptions
from controlmill.reasons import Reason, RowFailure
from tasks.pull.backoff import backoff_s
from tasks.pull.canary import Canary
from tasks.pull.client import Client
from tasks.pull.clock import Clock, Deadline, LoopClock
from tasks.pull.failures import Failure
from tasks.pull.fetch import Fetched, Fetcher
from tasks.pull.guard import Guard, GuardedResolver, Lookup, ThreadedLookup, is_public
from tasks.pull.hosts import HostLimits, Hosts
from tasks.pull.outage import Outage, OutageLimits, Verdict
from tasks.pull.polite import PoliteClient
from tasks.pull.statistics import PullStatistics

_HASHED_IN_THREAD_BYTES = 1024 * 1024

_LOOP_CLOCK = LoopClock()

ExpectedHash = tuple[str, str]
"""Name of a hash function of `hashlib`, and the hash as hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """The bytes of one URL.

    Attributes:
        data: the body, unpacked if the server had compressed it.
        digest: its `compute_hash` in hexadecimal, or None.
        final_url: where the redirects ended, without credentials.
        http_status: of the last answer.
        attempts: 1 if the first one succeeded.
    """

    data: bytes
    digest: str | None
    final_url: str
    http_status: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a puller takes from the world, to be exchanged in tests."""

    lookup: Callable[[], Lookup] = ThreadedLookup
    guard: Guard | None = None
    outage: OutageLimits | None = None
    clock: Clock = _LOOP_CLOCK


class Puller:
    """Pulls URLs: politely, safely, within the time and size allowed.

    Args:
        options: limits and manners.
        num_parallel: pullers that work at the same time; the limits per host are divided among them.
        surroundings: for tests.

    Attributes:
        statistics: running totals.
    """

    def __init__(
        self, options: PullOptions, num_parallel: int = 1, surroundings: Surroundings = Surroundings()
    ) -> None:
        self._options = options
        self._clock = surroundings.clock
        self.statistics = PullStatistics()
        guard = surroundings.guard or Guard((lambda _: True) if options.allow_private_networks else is_public)
        lookup = surroundings.lookup()
        canary = Canary(lookup, guard, options.timeout)
        limits = surroundings.outage or OutageLimits(options.outage_patience, options.timeout)
        self._client = Client(options, GuardedResolver(lookup, guard), self.statistics)
        self._outage = Outage(limits, self._clock, self.statistics, canary.is_network_up)
        hosts = Hosts(_host_limits(options, num_parallel), self._clock)
        self._polite = PoliteClient(self._client, hosts, self._outage, canary, self._clock, self.statistics)
        self._fetcher = Fetcher(options, num_parallel, self._polite, hosts, guard, self._clock, self.statistics)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._outage.close()
        await self._fetcher.close()
        await self._client.__aexit__(kind, error, trace)

    async def pull(self, url: str, expected_hash: ExpectedHash | None = None) -> Pulled | RowFailure:
        """The bytes of `url`, or why there are none.

        Raises:
            NetworkOutageError: this machine has had no network for `outage_patience` seconds.
        """
        self._outage.begin()
        try:
            fetched, attempts = await self._pull_until_sure(url)
        finally:
            self._outage.end()
        if isinstance(fetched, Failure):
            return RowFailure(fetched.reason, fetched.message, fetched.http_status, attempts)
        return await self._hashed(fetched, attempts, expected_hash)

    async def _pull_until_sure(self, url: str) -> tuple[Fetched | Failure, int]:
        is_probe = False
        while True:
            if not is_probe:
                await self._outage.wait_until_back()
            num_outages = self._outage.num_ended
            fetched, attempts = await self._pull_with_retries(url, is_probe=is_probe)
            if not isinstance(fetched, Failure):
                return fetched, attempts
            is_probe = False
            if fetched.is_of_network and num_outages != self._outage.num_ended:
                continue
            if not fetched.is_suspect:
                return fetched, attempts
            verdict = await self._outage.verdict()
            if verdict is Verdict.REAL:
                self._polite.is_real(fetched)
                return fetched, attempts
            is_probe = verdict is Verdict.PROBE

    async def _pull_with_retries(self, url: str, *, is_probe: bool) -> tuple[Fetched | Failure, int]:
        deadline = Deadline(self._clock.now() + self._options.total_timeout)
        attempt = 1
        while True:
            fetched = await self._fetcher.fetch(url, deadline, is_probe=is_probe)
            if not isinstance(fetched, Failure) or not fetched.retryable or self._outage.is_down:
                return fetched, attempt
            wait_s = backoff_s(url, attempt) if fetched.retry_after_s is None else fetched.retry_after_s
            if attempt > self._options.retries or self._clock.now() + wait_s >= deadline.at:
                return fetched, attempt
            await self._clock.sleep(wait_s)
            self.statistics.num_retries += 1
            attempt += 1

    async def _hashed(self, fetched: Fetched, attempts: int, expected_hash: ExpectedHash | None) -> Pulled | RowFailure:
        kind = self._options.compute_hash
        digest = await _digest(kind, fetched.data) if kind else None
        if expected_hash is not None:
            expected_kind, expected = expected_hash
            found = digest if expected_kind == kind else await _digest(expected_kind, fetched.data)
            if found != expected.strip().lower():
                message = f"the {expected_kind} of what came is {found}, not {expected}"
                return RowFailure(Reason.HASH_MISMATCH, message, fetched.http_status, attempts)
        final_url = str(fetched.url.with_user(None)) if fetched.url.raw_user else str(fetched.url)
        return Pulled(fetched.data, digest, final_url, fetched.http_status, attempts)


async def _digest(kind: str, data: bytes) -> str:
    if len(data) > _HASHED_IN_THREAD_BYTES:
        return await asyncio.to_thread(_hexdigest, kind, data)
    return _hexdigest(kind, data)


def _hexdigest(kind: str, data: bytes) -> str:
    return hashlib.new(kind, data, usedforsecurity=False).hexdigest()


def _host_limits(options: PullOptions, num_parallel: int) -> HostLimits:
    rate = options.max_requests_per_second_per_host
    return HostLimits(
        max_in_flight=max(1, options.max_connections_per_host // num_parallel),
        spacing_s=num_parallel / rate if rate else 0.0,
        failure_limit=options.host_failure_limit,
        cooldown_s=options.host_cooldown,
        max_hold_s=options.total_timeout,
    )
