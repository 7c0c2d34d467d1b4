"""robots.txt: asked for once per host, kept, and obeyed (RFC 9309)."""

import asyncio
import dataclasses
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from protego import Protego
from yarl import URL

from controlmill.reasons import Reason
from tasks.pull.client import Answer
from tasks.pull.clock import Clock
from tasks.pull.failures import Failure
from tasks.pull.guard import Guard
from tasks.pull.redirects import follow

MAX_BYTES = 500 * 1024
"""How much of a robots.txt is read (RFC 9309, 2.5)."""
MAX_CRAWL_DELAY_S = 30.0
"""Longest Crawl-delay that is kept; a host that asks for more is not pulled from, a shard would never end."""
_MAX_REDIRECTS = 5
_MAX_CACHED_CHARS = 4 * 1024 * 1024
_MAX_CACHED = 4096

Get = Callable[[URL, bool], Awaitable[Answer | Failure]]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a host allows us.

    Attributes:
        robots: the parsed file; None if there is none, which allows all.
        refusal: why nothing may be pulled, or None.
        spacing_s: the Crawl-delay.
        num_chars: size of the file.
        until: the moment at which to ask again.
    """

    robots: Protego | None = None
    refusal: str | None = None
    spacing_s: float = 0.0
    num_chars: int = 0
    until: float = float("inf")

    def forbids(self, url: URL, agent: str) -> Failure | None:
        """Why `url` may not be pulled, or None if it may."""
        if self.refusal:
            return Failure(Reason.ROBOTS_TXT, self.refusal)
        if self.robots is not None and not self.robots.can_fetch(str(url), agent):
            return Failure(Reason.ROBOTS_TXT, f"robots.txt of {url.host} does not allow this path")
        return None


class RobotsTxt:
    """The rules of every host, fetched once also when many rows ask at the same time.

    Args:
        get: asks for a URL; the flag says that it is a probe in a network outage.
        agent: the names that a robots.txt may address us by, separated by spaces.
        ask_again_s: after this time a host whose robots.txt had an error is asked again.
    """

    def __init__(self, get: Get, guard: Guard, agent: str, clock: Clock, ask_again_s: float) -> None:
        self._get = get
        self._guard = guard
        self._agent = agent
        self._clock = clock
        self._ask_again_s = ask_again_s
        self._rules: OrderedDict[str, Rules] = OrderedDict()
        self._num_chars = 0
        self._fetching: dict[str, asyncio.Task[Rules | Failure]] = {}

    async def rules(self, url: URL, *, is_probe: bool = False) -> Rules | Failure:
        """The rules of the host of `url`; a failure if it cannot be reached, which forbids all and is not kept."""
        origin = str(url.origin())
        rules = self._rules.get(origin)
        if rules is not None:
            if self._clock.now() < rules.until:
                self._rules.move_to_end(origin)
                return rules
            self._forget(origin)
        task = self._fetching.get(origin)
        if task is None:
            task = self._fetching[origin] = asyncio.ensure_future(self._fetch(origin, is_probe=is_probe))
            task.add_done_callback(lambda _: self._fetching.pop(origin, None))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Stop what is under way."""
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fetch(self, origin: str, *, is_probe: bool) -> Rules | Failure:
        url: URL | Failure = URL(origin) / "robots.txt"
        for _ in range(_MAX_REDIRECTS + 1):
            if isinstance(url, Failure):
                break
            outcome = await self._get(url, is_probe)
            if isinstance(outcome, Failure) or outcome.location is None:
                rules = self._read(outcome, origin)
                if isinstance(rules, Rules):
                    self._keep(origin, rules)
                return rules
            url = follow(url, outcome.location, self._guard)
        # 2.3.1.2: more redirects than that may be taken for "there is none"; so is a redirect that leads nowhere
        self._keep(origin, Rules())
        return Rules()

    def _read(self, outcome: Answer | Failure, origin: str) -> Rules | Failure:
        if isinstance(outcome, Answer):
            return self._parse(outcome.body, origin)
        status = outcome.http_status
        if status is None:
            if outcome.reason in (Reason.TIMEOUT, Reason.TRUNCATED):
                return dataclasses.replace(outcome, message=f"{outcome.message} (asked for its robots.txt)")
            return outcome
        if 400 <= status < 500 and status != 429:
            return Rules()  # 2.3.1.3: "unavailable" allows all
        # 2.3.1.4: "unreachable" forbids all; 429 says nothing about the rules either
        refusal = f"robots.txt of {URL(origin).host} could not be read ({outcome.message}), which forbids all"
        return Rules(refusal=refusal, until=self._clock.now() + self._ask_again_s)

    def _parse(self, body: bytes, origin: str) -> Rules:
        text = body.decode("utf-8-sig", errors="replace")
        robots = Protego.parse(text)
        spacing_s = robots.crawl_delay(self._agent) or 0.0
        if spacing_s > MAX_CRAWL_DELAY_S:
            message = f"robots.txt of {URL(origin).host} asks for {spacing_s:g} s between requests"
            return Rules(refusal=f"{message}, more than the {MAX_CRAWL_DELAY_S:g} s that are waited for")
        return Rules(robots, spacing_s=spacing_s, num_chars=len(text))

    def _keep(self, origin: str, rules: Rules) -> None:
        self._rules[origin] = rules
        self._num_chars += rules.num_chars
        while self._num_chars > _MAX_CACHED_CHARS or len(self._rules) > _MAX_CACHED:
            self._forget(next(iter(self._rules)))

    def _forget(self, origin: str) -> None:
        self._num_chars -= self._rules.pop(origin).num_chars
