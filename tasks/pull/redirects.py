"""Where a redirect leads."""

from yarl import URL

from controlmill.reasons import Reason
from tasks.pull.failures import Failure
from tasks.pull.guard import Guard


def follow(url: URL, location: str, guard: Guard) -> URL | Failure:
    """The address that an answer from `url` redirects to, checked like the first one; credentials stay behind."""
    try:
        target = str(url.with_user(None).join(URL(location)))
    except ValueError:
        return Failure(Reason.INVALID_URL, f"{url.host} redirects to something that is not a URL")
    parsed = guard.parse(target)
    if isinstance(parsed, Failure):
        return Failure(parsed.reason, f"{url.host} redirects: {parsed.message}")
    return parsed
