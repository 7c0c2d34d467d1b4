"""What the workers of a run leave for the process that started them.

Apart from what starts them: a process of its own keeps the board, and imports no more than this for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from controlmill.errors import ControlmillError
    from training.outcome import Outcome


@dataclass
class Board:
    """A Ray actor without a CPU of its own."""

    records: list[Mapping[str, Any]] = field(default_factory=list)
    error: "ControlmillError | None" = None
    outcome: "Outcome | None" = None

    def tell(self, record: Mapping[str, Any]) -> None:
        """Keep a record until it is taken."""
        self.records.append(record)

    def take(self) -> list[Mapping[str, Any]]:
        """What was told since the last call."""
        taken, self.records = self.records, []
        return taken

    def fail(self, error: "ControlmillError") -> None:
        """Keep the first error that no restart would cure."""
        self.error = self.error or error

    def failure(self) -> "ControlmillError | None":
        """That error."""
        return self.error

    def finish(self, outcome: "Outcome") -> None:
        """Keep how the run ended."""
        self.outcome = outcome

    def ending(self) -> "Outcome | None":
        """How the run ended."""
        return self.outcome
