"""Where a redirect leads."""

from yarl import URL

from controlmill.reasons import Reason
from tasks.pull.failures import Failure
from tasks.pull.guard import Guard


def follow(url: URL, location: str, guard: Guard) -> URL | Failure:
    """The address that an answer from `url` redirects to, checked like the first one; credentials stay behind."""
    try:
        target = url.with_user(None).join(URL(location))
    except ValueError:
        return Failure(Reason.INVALID_URL, f"{url.host} redirects to something that is not a URL")
    if target.scheme not in ("http", "https"):
        # the row's URL is one that can be pulled; it is the host that leads away from the web, to a file for one
        return Failure(Reason.FORBIDDEN_ADDRESS, f"{url.host} redirects to {target.scheme[:20]}:, only http and https")
    parsed = guard.parse(str(target))
    if isinstance(parsed, Failure):
        return Failure(parsed.reason, f"{url.host} redirects: {parsed.message}")
    return parsed
