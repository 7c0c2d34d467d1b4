import asyncio
from collections.abc import Mapping
from itertools import pairwise

import pytest
from yarl import URL

from controlmill.reasons import Reason
from controlmill.testing.network import SkippingClock
from tasks.pull.client import Answer
from tasks.pull.failures import Failure, of_status
from tasks.pull.guard import Guard
from tasks.pull.robots import RobotsTxt, Rules

IMAGE = URL("http://example.org/images/a.jpg")
AGENT = "controlmill"


class _Web:
    """Answers to robots.txt requests, by URL; counts them."""

    def __init__(self, answers: Mapping[str, Answer | Failure]) -> None:
        self.answers = dict(answers)
        self.asked: list[str] = []

    async def get(self, url: URL, _is_probe: bool) -> Answer | Failure:  # noqa: FBT001, the signature of a callback
        self.asked.append(str(url))
        await asyncio.sleep(0)
        return self.answers.get(str(url), of_status(404, "x", None))


def robots_txt(text: str) -> Answer:
    return Answer(200, text.encode())


def make(answer: Answer | Failure, clock: SkippingClock | None = None, agent: str = AGENT) -> tuple[RobotsTxt, _Web]:
    web = _Web({"http://example.org/robots.txt": answer})
    return RobotsTxt(web.get, Guard(), agent, clock or SkippingClock(), ask_again_s=60), web


async def allowed(robots: RobotsTxt, url: URL = IMAGE, agent: str = AGENT) -> bool:
    rules = await robots.rules(url)
    assert isinstance(rules, Rules)
    return rules.forbids(url, agent) is None


@pytest.mark.parametrize(
    ("text", "agent", "expected"),
    [
        ("", AGENT, True),
        ("User-agent: *\nDisallow: /", AGENT, False),
        ("User-agent: *\nDisallow: /private/", AGENT, True),
        ("User-agent: *\nDisallow: /images/\nAllow: /images/a", AGENT, True),
        ("User-agent: controlmill\nDisallow: /\n\nUser-agent: *\nAllow: /", AGENT, False),
        ("User-agent: *\nDisallow: /\n\nUser-agent: ControlMill\nAllow: /", AGENT, True),
        ("User-agent: mybot\nDisallow: /", AGENT, True),
        ("User-agent: mybot\nDisallow: /", "mybot controlmill", False),
        ("User-agent: controlmill\nDisallow: /", "mybot controlmill", False),
        ("\ufeffUser-agent: *\nDisallow: /*.jpg$", AGENT, False),
        ("<html>no robots here</html>", AGENT, True),
    ],
)
async def test_the_rules_are_obeyed(text: str, agent: str, *, expected: bool) -> None:
    robots, _ = make(robots_txt(text), agent=agent)
    assert await allowed(robots, agent=agent) is expected


async def test_many_rows_at_once_ask_once_and_later_ones_not_at_all() -> None:
    robots, web = make(robots_txt("User-agent: *\nDisallow: /"))
    await asyncio.gather(*(robots.rules(IMAGE) for _ in range(50)))
    await robots.rules(IMAGE)
    assert web.asked == ["http://example.org/robots.txt"]


async def test_another_port_or_scheme_is_another_host() -> None:
    robots, web = make(robots_txt(""))
    await robots.rules(URL("http://example.org:8080/a"))
    await robots.rules(URL("https://user:secret@example.org/a"))
    assert web.asked == ["http://example.org:8080/robots.txt", "https://example.org/robots.txt"]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_none_allows_all(status: int) -> None:
    robots, _ = make(of_status(status, "example.org", None))
    assert await allowed(robots)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_error_forbids_all_until_it_is_asked_again(status: int) -> None:
    clock = SkippingClock()
    robots, web = make(of_status(status, "example.org", None), clock)
    assert not await allowed(robots)
    web.answers = {"http://example.org/robots.txt": robots_txt("")}
    assert not await allowed(robots)
    clock.skip(61)
    assert await allowed(robots)


async def test_a_host_out_of_reach_gives_its_own_reason_and_is_not_remembered() -> None:
    robots, web = make(Failure(Reason.DNS, "no such host"))
    rules = await robots.rules(IMAGE)
    assert isinstance(rules, Failure)
    assert rules.reason is Reason.DNS
    web.answers = {"http://example.org/robots.txt": robots_txt("")}
    assert await allowed(robots)


def redirects(num: int, last: Answer) -> _Web:
    urls = ["http://example.org/robots.txt", *(f"http://other.example/{number}" for number in range(num))]
    answers: dict[str, Answer | Failure] = {url: Answer(301, location=target) for url, target in pairwise(urls)}
    return _Web(answers | {urls[-1]: last})


@pytest.mark.parametrize(("num_redirects", "expected"), [(1, False), (5, False), (6, True)])
async def test_five_redirects_are_followed_to_wherever_they_lead(num_redirects: int, *, expected: bool) -> None:
    web = redirects(num_redirects, robots_txt("User-agent: *\nDisallow: /"))
    robots = RobotsTxt(web.get, Guard(), AGENT, SkippingClock(), 60)
    assert await allowed(robots) is expected


async def test_a_redirect_into_the_own_network_is_not_followed() -> None:
    robots, web = make(Answer(302, location="http://10.0.0.1/robots.txt"))
    assert await allowed(robots)
    assert web.asked == ["http://example.org/robots.txt"]


async def test_a_crawl_delay_is_told_and_too_long_a_one_refused() -> None:
    robots, _ = make(robots_txt("User-agent: *\nCrawl-delay: 2.5"))
    rules = await robots.rules(IMAGE)
    assert isinstance(rules, Rules)
    assert rules.spacing_s == 2.5
    robots, _ = make(robots_txt("User-agent: *\nCrawl-delay: 3600"))
    rules = await robots.rules(IMAGE)
    assert isinstance(rules, Rules)
    refusal = rules.forbids(IMAGE, AGENT)
    assert refusal is not None
    assert "3600 s between requests" in refusal.message


async def test_what_is_kept_stays_small() -> None:
    big = robots_txt("User-agent: *\n" + f"Disallow: /{'x' * 200}\n" * 1000)
    web = _Web({f"http://host{number}.example/robots.txt": big for number in range(30)})
    robots = RobotsTxt(web.get, Guard(), AGENT, SkippingClock(), 60)
    for number in range(30):
        await robots.rules(URL(f"http://host{number}.example/a"))
    await robots.rules(URL("http://host29.example/a"))
    await robots.rules(URL("http://host0.example/a"))
    assert web.asked.count("http://host29.example/robots.txt") == 1
    assert web.asked.count("http://host0.example/robots.txt") == 2
