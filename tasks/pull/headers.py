"""Headers that say whether an image may be used, and when a host wants to be asked again."""

import re
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_BOT_NAME = re.compile(r"[A-Za-z0-9_.\-/]+")
# directives of X-Robots-Tag that have a value after a colon, and so are not the name of a bot
_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_LONGEST_WAIT_S = 10 * 365 * 86400.0


def opt_out_directive(values: Iterable[str], bot_names: Collection[str], disallowed: Collection[str]) -> str | None:
    """The first of the `disallowed` directives that the X-Robots-Tag headers address to us, or None.

    A directive after `name:` is for that bot alone, one without a name is for all, as in img2dataset. Beyond it,
    valued directives (`max-snippet: 20`) are not mistaken for names, and headers that a proxy has joined into one are
    read as several. `bot_names` and `disallowed` are in lower case.
    """
    for value in values:
        is_for_us = True
        for part in value.split(","):
            name, colon, rest = part.partition(":")
            directive = part.strip().lower()
            if colon and _BOT_NAME.fullmatch(name.strip()) and name.strip().lower() not in _VALUED:
                is_for_us = name.strip().lower() in bot_names
                directive = rest.strip().lower()
            if is_for_us and directive in disallowed:
                return directive
    return None


def retry_after_s(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds to wait that a Retry-After header asks for, from seconds or an HTTP date (RFC 9110, 10.2.3), or None."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value), _LONGEST_WAIT_S)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return min(max(0.0, (date - (now or datetime.now(UTC))).total_seconds()), _LONGEST_WAIT_S)
