"""One attempt at a URL: its redirects followed by hand, each hop allowed by the guard and the host's robots.txt."""

from collections.abc import Callable
from dataclasses import dataclass

from multidict import CIMultiDictProxy
from yarl import URL

from controlmill.config.pull import PullOptions
from controlmill.reasons import Reason
from tasks.pull.client import Answer, Wanted
from tasks.pull.clock import Clock, Deadline
from tasks.pull.failures import Failure
from tasks.pull.guard import Guard
from tasks.pull.headers import opt_out_directive
from tasks.pull.hosts import Hosts
from tasks.pull.polite import PoliteClient, host_name
from tasks.pull.redirects import follow
from tasks.pull.robots import MAX_BYTES, RobotsTxt
from tasks.pull.statistics import PullStatistics

OUR_NAME = "controlmill"


@dataclass(frozen=True, slots=True)
class Fetched:
    """The bytes of a URL and where they came from."""

    data: bytes
    url: URL
    http_status: int


class Fetcher:
    """Makes attempts."""

    def __init__(
        self,
        options: PullOptions,
        num_parallel: int,
        polite: PoliteClient,
        hosts: Hosts,
        guard: Guard,
        clock: Clock,
        statistics: PullStatistics,
    ) -> None:
        self._options = options
        self._num_parallel = num_parallel
        self._polite = polite
        self._hosts = hosts
        self._guard = guard
        self._clock = clock
        self._statistics = statistics
        self._agent = f"{options.user_agent_token} {OUR_NAME}" if options.user_agent_token else OUR_NAME
        self._robots = RobotsTxt(self._get_robots_txt, guard, self._agent, clock, options.host_cooldown)
        self._wanted = Wanted(options.max_bytes, check=opt_out_check(options, statistics))
        self._wanted_robots = Wanted(MAX_BYTES, start_is_enough=True)

    async def close(self) -> None:
        """Stop what is under way."""
        await self._robots.close()

    async def fetch(self, text: str, deadline: Deadline, *, is_probe: bool) -> Fetched | Failure:
        """Ask for the URL in `text` and follow where it leads, until the deadline."""
        url = self._guard.parse(text)
        seen: set[URL] = set()
        while not isinstance(url, Failure):
            if url in seen or len(seen) > self._options.max_redirects:
                return _too_many(url, self._options.max_redirects, is_circle=url in seen)
            seen.add(url)
            if self._options.respect_robots_txt and (refusal := await self._ask_robots(url, deadline, is_probe)):
                return refusal
            outcome = await self._polite.get(url, deadline, self._wanted, is_probe=is_probe)
            if isinstance(outcome, Failure):
                return outcome
            if outcome.location is None:
                return Fetched(outcome.body, url, outcome.status)
            self._statistics.num_redirects += 1
            url = follow(url, outcome.location, self._guard)
        return url

    async def _ask_robots(self, url: URL, deadline: Deadline, is_probe: bool) -> Failure | None:  # noqa: FBT001, private
        began = self._clock.now()
        rules = await self._robots.rules(url, is_probe=is_probe)
        deadline.extend(self._clock.now() - began)
        if isinstance(rules, Failure):
            return rules
        if rules.spacing_s:
            self._hosts.slow_down(host_name(url), rules.spacing_s * self._num_parallel)
        refusal = rules.forbids(url, self._agent)
        if refusal:
            self._statistics.num_opted_out += 1
        return refusal

    async def _get_robots_txt(self, url: URL, is_probe: bool) -> Answer | Failure:  # noqa: FBT001, a callback
        self._statistics.num_robots_txt += 1
        deadline = Deadline(self._clock.now() + self._options.total_timeout)
        return await self._polite.get(url, deadline, self._wanted_robots, is_probe=is_probe)


def opt_out_check(
    options: PullOptions, statistics: PullStatistics
) -> Callable[[CIMultiDictProxy[str]], Failure | None] | None:
    """Judges the X-Robots-Tag headers of an answer; None if no directive is to be obeyed."""
    disallowed = frozenset(directive.lower() for directive in options.disallowed_header_directives)
    names = frozenset({OUR_NAME, (options.user_agent_token or OUR_NAME).lower()})

    def check(headers: CIMultiDictProxy[str]) -> Failure | None:
        values = headers.getall("X-Robots-Tag", ())
        directive = opt_out_directive(values, names, disallowed) if values else None
        if directive is None:
            return None
        statistics.num_opted_out += 1
        length = headers.get("Content-Length", "")
        statistics.num_bytes_spared += int(length) if length.isdigit() else 0
        return Failure(Reason.OPT_OUT, f"X-Robots-Tag says {directive}")

    return check if disallowed else None


def _too_many(url: URL, max_redirects: int, *, is_circle: bool) -> Failure:
    if is_circle:
        return Failure(Reason.TOO_MANY_REDIRECTS, f"the redirects go in a circle at {url.host}")
    return Failure(Reason.TOO_MANY_REDIRECTS, f"more than max_redirects, {max_redirects}, up to {url.host}")
