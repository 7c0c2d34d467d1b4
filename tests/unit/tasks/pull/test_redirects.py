import pytest
from yarl import URL

from controlmill.reasons import Reason
from tasks.pull.failures import Failure
from tasks.pull.guard import Guard
from tasks.pull.redirects import follow

START = URL("http://user:secret@example.org/a/b.jpg?x=1")


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/c.jpg", "http://example.org/c.jpg"),
        ("c.jpg", "http://example.org/a/c.jpg"),
        ("?y=2", "http://example.org/a/b.jpg?y=2"),
        ("//cdn.example/c.jpg", "http://cdn.example/c.jpg"),
        ("https://cdn.example/c.jpg", "https://cdn.example/c.jpg"),
    ],
)
def test_a_redirect_leads_on_without_the_credentials(location: str, target: str) -> None:
    assert str(follow(START, location, Guard())) == target


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://10.0.0.1/", Reason.FORBIDDEN_ADDRESS),
        ("http://2130706433/", Reason.FORBIDDEN_ADDRESS),
        ("file:///etc/passwd", Reason.FORBIDDEN_ADDRESS),
        ("ftp://example.org/a.jpg", Reason.FORBIDDEN_ADDRESS),
        ("http://[::1/", Reason.INVALID_URL),
        ("http://:99999/", Reason.INVALID_URL),
    ],
)
def test_a_redirect_is_checked_like_the_first_url(location: str, reason: Reason) -> None:
    refused = follow(START, location, Guard())
    assert isinstance(refused, Failure)
    assert refused.reason is reason
    assert "secret" not in refused.message
