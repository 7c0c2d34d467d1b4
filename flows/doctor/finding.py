"""What a check finds."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["good", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    """What was looked at: "Ray", "weights of hed"."""
    verdict: Verdict
    """`note`: something is missing that only some work needs; `problem`: some command will fail, or mislead."""
    found: str
    """What there is, in one line."""
    remedy: str | None = None
    """What to do about it, in one line."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


Check = Callable[[], Iterator[Finding]]
"""Looks at one thing; what it raises is a problem of its own."""
