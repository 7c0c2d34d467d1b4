"""One family of columns of a dataset: its Parquet files and commit records."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from controlmill.errors import CorruptShardError
from storage.filesystem import one_line, redact
from storage.parquet import open_parquet
from storage.record import CommitRecord, ShardStatus
from storage.record_index import NAME as INDEX_NAME
from storage.record_index import Listed, read_records

if TYPE_CHECKING:
    from storage.dataset import Dataset

FAILURES = "failures"
"""Folder of the files of failed rows; they have no records of their own, the image layer's cover them."""

_FILE = re.compile(r"^(\d{5,})(\.parquet|_stats\.json)$")


class Layer:
    """The files of one layer; a shard is committed when its record is valid and its Parquet file is there."""

    def __init__(self, dataset: "Dataset", name: str) -> None:
        self._files = dataset.files
        self.name = name
        self.folder = f"{dataset.root}/{name}"

    def path(self, shard: int) -> str:
        """Path of the Parquet file on the dataset's file system."""
        return f"{self.folder}/{shard:05d}.parquet"

    def record_path(self, shard: int) -> str:
        """Path of the commit record on the dataset's file system."""
        return f"{self.folder}/{shard:05d}_stats.json"

    @property
    def index_path(self) -> str:
        """Path of the file with copies of the commit records; it is there where the layer has many."""
        return f"{self.folder}/{INDEX_NAME}"

    def exists(self, shard: int) -> bool:
        """Whether the shard is committed."""
        return self.record(shard) is not None

    def record(self, shard: int) -> CommitRecord | None:
        """The commit record, None where the shard is not committed."""
        data = self._files.read(self.record_path(shard))
        record = CommitRecord.from_json(data) if data is not None else None
        if record is None or self._files.stat(self.path(shard)) is None:
            return None
        return record

    def records(self) -> dict[int, CommitRecord]:
        """All commit records by shard; some kilobytes each: `statuses` and `iter_records` do with less."""
        return {record.shard: record for record in self.iter_records()}

    def statuses(self, *, remember: bool = False) -> dict[int, ShardStatus]:
        """Rows, size, fingerprint and hash of every committed shard; `remember` as in `iter_records`."""
        return {record.shard: ShardStatus.of(record) for record in self.iter_records(remember=remember)}

    def committed(self) -> set[int]:
        """The committed shards."""
        return {record.shard for record in self.iter_records()}

    def iter_records(self, *, remember: bool = False) -> Iterator[CommitRecord]:
        """The commit records in the order of shards, one at a time.

        Args:
            remember: write an index of them where many are in none; only the holder of the dataset's lock says so.
        """
        parquet_shards: set[int] = set()
        listed: list[Listed] = []
        index_path = None
        for entry in self._files.entries(self.folder):
            match = _FILE.match(entry.name)
            if entry.name == INDEX_NAME:
                index_path = self.index_path
            elif match and match[2] == ".parquet":
                parquet_shards.add(int(match[1]))
            elif match:
                shard = int(match[1])
                listed.append(Listed.of(shard, self.record_path(shard), entry))
        committed = sorted((one for one in listed if one.shard in parquet_shards), key=lambda one: one.shard)
        write_to = self.index_path if remember else None
        for data in read_records(self._files, index_path, committed, write_to):
            record = CommitRecord.from_json(data)
            if record is not None:
                yield record

    def files(self) -> Iterator[tuple[int, str, int]]:
        """Shard, kind (".parquet" or "_stats.json") and size of every file that is there, committed or not."""
        for entry in self._files.entries(self.folder):
            match = _FILE.match(entry.name)
            if match:
                yield int(match[1]), match[2], entry.size

    def schema(self, shard: int) -> pa.Schema:
        """Arrow schema of a shard."""
        with self._parquet(shard) as file:
            return file.schema_arrow

    def iter_batches(
        self, shard: int, columns: Sequence[str] | None = None, batch_rows: int = 64
    ) -> Iterator[pa.RecordBatch]:
        """Read a shard from its beginning, a few rows at a time; `columns` in the order of the file.

        Raises:
            CorruptShardError: the file is missing, cut, or not the one that its record describes (size and rows; its
                hash is checked by `storage.verify`).
        """
        with self._parquet(shard) as file:
            names = None if columns is None else list(columns)
            try:
                yield from file.iter_batches(batch_size=batch_rows, columns=names)
            except (pa.ArrowException, OSError) as error:
                raise self._corrupt(shard, one_line(error)) from error

    def write_record(self, record: CommitRecord) -> None:
        """Write a commit record: the moment at which the shard is done."""
        self._files.write(self.record_path(record.shard), record.to_json())

    def delete_record(self, shard: int) -> None:
        """Make a shard uncommitted."""
        self._files.delete(self.record_path(shard))

    def delete(self, shard: int) -> None:
        """Delete a shard: its record first."""
        self.delete_record(shard)
        self._files.delete(self.path(shard))

    @contextmanager
    def _parquet(self, shard: int) -> Iterator["pq.ParquetFile"]:
        path = self.path(shard)
        record = self.record(shard)
        entry = self._files.stat(path)
        if entry is None:
            raise self._corrupt(shard, "the file is missing")
        if record is None and self.name != FAILURES:
            raise self._corrupt(shard, "it has no commit record")
        if record is not None and entry.size != record.num_bytes:
            raise self._corrupt(shard, f"it has {entry.size} bytes, its commit record says {record.num_bytes}")
        with self._files.open(path) as source:
            try:
                file = open_parquet(source)
            except (pa.ArrowException, OSError) as error:
                raise self._corrupt(shard, one_line(error)) from error
            if record is not None and file.metadata.num_rows != record.rows:
                rows = f"it has {file.metadata.num_rows} rows, its commit record says {record.rows}"
                raise self._corrupt(shard, rows)
            yield file

    def _corrupt(self, shard: int, what: str) -> CorruptShardError:
        path = redact(self.path(shard))
        return CorruptShardError(
            f"{path}: {what}; delete {redact(self.record_path(shard))} to have the shard made again"
        )
