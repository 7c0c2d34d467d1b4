"""A source made of files: what has changed since it was planned, told from as little reading as possible."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from storage.description import SourceFile
from tasks.sources.base import Planned, changed
from tasks.sources.digest import RowsDigest

_NOT_CONTENT = {"retry_of", "location"}


class RowFiles(Protocol):
    """Files of rows, and how one of them is read."""

    label: str

    def files(self) -> list[SourceFile]:
        """Return the files as they are now, in the order of their rows; raises SourceMissingError."""

    def schema(self, name: str) -> pa.Schema:
        """Return the schema of source shards made from one file."""

    def iter_rows(self, name: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield the rows of one file in the columns of `schema`, without keys."""


@dataclass(frozen=True)
class _Delta:
    """One file, and how many of its rows are planned (None: it is as it was, and not read again)."""

    now: SourceFile
    planned_rows: int | None


class FileSource:
    """A source of which each file has a digest of its rows; a file that grew is one whose old rows are a prefix."""

    def __init__(self, reader: RowFiles) -> None:
        self._reader = reader
        self.label = reader.label

    def schema(self) -> pa.Schema:
        """The schema of source shards, from the first file."""
        return self._reader.schema(self._reader.files()[0].name)

    def news(self, planned: Planned, schema: pa.Schema) -> "FileNews":
        """Compare the files with the planned ones; files of the same size and time (or ETag) are not read."""
        now = self._reader.files()
        # a single file may be renamed: what counts is what is in it
        single = len(now) == len(planned.files) == 1
        before = {now[0].name if single else file.name: file for file in planned.files}
        gone = before.keys() - {file.name for file in now}
        if gone:
            raise changed(self.label, f"{min(gone)} is gone")
        deltas = []
        changes = []
        for file in now:
            old = before.get(file.name)
            delta, change = (
                (_Delta(file, 0), f"{file.name} is new") if old is None else self._compare(old, file, schema)
            )
            deltas.append(delta)
            if change:
                changes.append(change)
        return FileNews(self._reader, deltas, changes if planned.files else [])

    def _compare(self, old: SourceFile, now: SourceFile, schema: pa.Schema) -> tuple[_Delta, str]:
        if (old.size, old.modified) == (now.size, now.modified):
            return _Delta(old.model_copy(update={"name": now.name}), None), ""
        digest = RowsDigest()
        digest_of_planned = ""
        for batch in self._reader.iter_rows(now.name, schema):
            content = _content(batch)
            missing = old.rows - digest.num_rows
            if 0 <= missing <= batch.num_rows and not digest_of_planned:
                digest.update(content.slice(0, missing))
                digest_of_planned = digest.hexdigest()
                content = content.slice(missing)
            digest.update(content)
        rows = f"{now.name} has {digest.num_rows:,} rows, {old.rows:,} when the dataset was started"
        if digest.num_rows < old.rows:
            raise changed(self.label, rows)
        if old.rows and digest_of_planned != old.digest:
            raise changed(self.label, f"the first {old.rows:,} rows of {now.name} are others, or in another order")
        read = now.model_copy(update={"rows": digest.num_rows, "digest": digest.hexdigest()})
        return (_Delta(read, None), "") if digest.num_rows == old.rows else (_Delta(now, old.rows), rows)


class FileNews:
    """The rows of files that are not planned yet."""

    def __init__(self, reader: RowFiles, deltas: list[_Delta], changes: list[str]) -> None:
        self._reader = reader
        self._deltas = deltas
        self._files: list[SourceFile] = []
        self.changes = changes

    def iter_rows(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield the new rows, file by file."""
        self._files = []
        for delta in self._deltas:
            if delta.planned_rows is None:
                self._files.append(delta.now)
                continue
            digest = RowsDigest()
            for batch in self._reader.iter_rows(delta.now.name, schema):
                skip = min(batch.num_rows, max(0, delta.planned_rows - digest.num_rows))
                digest.update(_content(batch))
                if skip < batch.num_rows:
                    yield batch.slice(skip)
            update = {"rows": digest.num_rows, "digest": digest.hexdigest()}
            self._files.append(delta.now.model_copy(update=update))

    def files(self) -> list[SourceFile]:
        """The files with all of their rows planned; without `iter_rows`, those of a source without news."""
        if len(self._files) == len(self._deltas):
            return self._files
        return [delta.now for delta in self._deltas if delta.planned_rows is None]


def _content(batch: pa.RecordBatch) -> pa.RecordBatch:
    """What of a row is content: an adopted folder may be moved, and its rows stay the same."""
    return batch.select([name for name in batch.schema.names if name not in _NOT_CONTENT])
