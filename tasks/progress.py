"""What a shard tells about itself while it is being worked on."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from controlmill.reasons import Reason


@dataclass(slots=True)
class ShardProgress:
    """Rows of one shard that are done so far, and those that failed, by reason."""

    shard: int
    done: int = 0
    failed: Counter[Reason] = field(default_factory=Counter)

    def add(self, failure: Reason | None) -> None:
        """Count one more row."""
        self.done += 1
        if failure is not None:
            self.failed[failure] += 1


Report = Callable[[ShardProgress], None]
"""Called after every row with the same growing object; must return at once and never raise."""


def ignore(progress: ShardProgress) -> None:
    """A report to nobody."""
