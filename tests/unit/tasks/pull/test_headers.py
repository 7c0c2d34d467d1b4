from datetime import UTC, datetime

import pytest

from tasks.pull.headers import opt_out_directive, retry_after_s

DISALLOWED = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
NAMES = frozenset({"controlmill", "mybot"})
NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("values", "directive"),
    [
        ([], None),
        (["all"], None),
        (["noai"], "noai"),
        (["NoAI , nofollow"], "noai"),
        (["nofollow, noimageindex"], "noimageindex"),
        (["nofollow", "noindex"], "noindex"),
        (["otherbot: noai"], None),
        (["otherbot: noindex, noai"], None),
        (["otherbot: noai, MyBot: noindex"], "noindex"),
        (["mybot: noai"], "noai"),
        (["controlmill: noai"], "noai"),
        (["noindex, otherbot: nofollow"], "noindex"),
        (["otherbot: noai", "noai"], "noai"),
        (["max-snippet: 20, noai"], "noai"),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], "noai"),
        (["noaix, xnoai, no ai"], None),
        ([":::,,,", ""], None),
    ],
)
def test_directives_count_for_those_they_are_addressed_to(values: list[str], directive: str | None) -> None:
    assert opt_out_directive(values, NAMES, DISALLOWED) == directive


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Thu, 01 Jan 2026 12:01:30 GMT", 90.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("²", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, NOW) == seconds


def test_an_absurd_retry_after_stays_a_finite_number() -> None:
    wait_s = retry_after_s("9" * 400)
    assert wait_s is not None
    assert wait_s < 1e10
