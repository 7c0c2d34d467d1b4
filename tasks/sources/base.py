"""What the planner needs from a source, whatever its kind."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from controlmill.errors import SourceChangedError
from storage.description import SourceFile

REMEDIES = "use another output folder, or start again with --incremental-mode overwrite"


@dataclass(frozen=True)
class Planned:
    """What is planned already: the files as they were then, and the rows themselves where a source needs them."""

    files: list[SourceFile] = field(default_factory=list)
    iter_runs: Callable[[], list[Iterator[tuple[str, str | None]]]] = list
    """URL and caption of every planned row, one iterator for each time that rows were planned."""


class News(Protocol):
    """What is in a source and not planned yet. Making one has checked that everything planned is still the same."""

    changes: list[str]
    """What is new, each in words for a person; empty where nothing is."""

    def iter_rows(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield the new rows in the columns of `schema`, without keys."""

    def files(self) -> list[SourceFile]:
        """Return the files with all of their rows planned, once `iter_rows` has ended."""


class Source(Protocol):
    """A source of rows."""

    label: str
    """Its name for messages, without secrets."""

    def schema(self) -> pa.Schema:
        """Return the schema of source shards made from it."""

    def news(self, planned: Planned, schema: pa.Schema) -> News:
        """Compare it with what is planned; raises SourceChangedError where planned rows are gone or others now."""


def changed(label: str, what: str) -> SourceChangedError:
    """The error for a source whose planned rows are no longer there."""
    return SourceChangedError(f"{label} is not the source that this dataset was started from: {what}; {REMEDIES}")


def grown(label: str, changes: list[str]) -> SourceChangedError:
    """The error for a source that has more rows than are planned."""
    shown = "; ".join(changes[:3]) + (f"; and {len(changes) - 3:,} more changes" if len(changes) > 3 else "")
    return SourceChangedError(
        f"{label} has grown since this dataset was started: {shown}; --incremental-mode extend adds the new rows as "
        f"new shards; or {REMEDIES}"
    )
