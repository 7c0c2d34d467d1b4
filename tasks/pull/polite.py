"""Requests that keep to the limits of their host, and tell the circuit breaker and the outage watch how they went."""

import dataclasses

from yarl import URL

from controlmill.reasons import Reason
from tasks.pull.canary import Canary
from tasks.pull.client import Answer, Client, Wanted
from tasks.pull.clock import Clock, Deadline
from tasks.pull.failures import Failure
from tasks.pull.hosts import Hosts
from tasks.pull.outage import Outage
from tasks.pull.statistics import PullStatistics

# nothing was asked, or the answer came from a name server that may stand in this network
_PROVES_NOTHING = frozenset({Reason.INVALID_URL, Reason.FORBIDDEN_ADDRESS})


class PoliteClient:
    """A `Client` that waits for its turn at each host."""

    def __init__(
        self,
        client: Client,
        hosts: Hosts,
        outage: Outage,
        canary: Canary,
        clock: Clock,
        statistics: PullStatistics,
    ) -> None:
        self._client = client
        self._hosts = hosts
        self._outage = outage
        self._canary = canary
        self._clock = clock
        self._statistics = statistics

    async def get(self, url: URL, deadline: Deadline, wanted: Wanted, *, is_probe: bool = False) -> Answer | Failure:
        """As `Client.get`; the time in the host's queue does not count for the deadline.

        While the network is down only a probe is sent.
        """
        name = host_name(url)
        began = self._clock.now()
        turn = await self._hosts.enter(name)
        waited_s = self._clock.now() - began
        deadline.extend(waited_s)
        self._statistics.queue_s += waited_s
        if isinstance(turn, Failure):
            return turn
        try:
            if self._outage.is_down and not is_probe:
                return Failure(Reason.CONNECTION, "this machine has no network", is_suspect=True, host=name)
            outcome = await self._client.get(url, deadline.at, wanted)
        finally:
            self._hosts.leave(turn)
        return self._learn(name, url, outcome)

    def is_real(self, failure: Failure) -> None:
        """A suspect failure turned out to be the host's own."""
        self._hosts.failed(failure.host)

    def _learn(self, name: str, url: URL, outcome: Answer | Failure) -> Answer | Failure:
        if isinstance(outcome, Answer):
            self._works(name, url)
            return outcome
        if outcome.is_suspect:
            self._outage.suspect(name)
            return dataclasses.replace(outcome, host=name)
        if outcome.reason in _PROVES_NOTHING:
            return outcome
        if outcome.blames_host:
            self._outage.answered()
            self._hosts.failed(name)
        else:
            self._works(name, url)
        if outcome.retry_after_s:
            self._hosts.hold(name, outcome.retry_after_s)
        return outcome

    def _works(self, name: str, url: URL) -> None:
        self._hosts.succeeded(name)
        self._outage.answered()
        self._canary.remember(url.host or "", url.port or 80)


def host_name(url: URL) -> str:
    """What counts as one host: the name, with the port if it is not the usual one."""
    return url.host_port_subcomponent or ""
