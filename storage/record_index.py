"""Copies of a layer's commit records in one file, so that 100,000 of them are not 100,000 requests.

The records stay the only truth. A copy is used where the folder's listing, which is made anew each time, shows the very
file that was copied: same size, and same modification time or ETag. A missing, cut or outdated index costs time and
nothing else. Only who may write to a dataset writes one, in one step like every other file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from storage.filesystem import Entry, Files

NAME = "_stats.index"
_MIN_NEW = 1000
"""Records that are in no index yet and make a new one worth writing."""
_RECORDS_PER_BATCH = 1024
_SCHEMA = pa.schema(
    [("shard", pa.int64()), ("size", pa.int64()), ("modified", pa.string()), ("record", pa.binary())]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Listed:
    """A commit record's file, as the folder's listing shows it."""

    shard: int
    path: str
    size: int
    modified: str

    @classmethod
    def of(cls, shard: int, path: str, entry: Entry) -> "Listed":
        """What the listing says of a shard's record."""
        return cls(shard, path, entry.size, entry.modified)


class _Copies:
    """The copies in an index, taken in the order of shards."""

    def __init__(self, data: bytes | None) -> None:
        self._rows = _iter_rows(data) if data is not None else iter(())
        self._next = next(self._rows, None)

    def take(self, listed: Listed) -> bytes | None:
        """The copy of this very file, None where there is none."""
        while self._next is not None and self._next[0] < listed.shard:
            self._next = next(self._rows, None)
        if self._next is None or not listed.modified:
            return None
        is_it = self._next[:3] == (listed.shard, listed.size, listed.modified)
        return self._next[3] if is_it else None


def _iter_rows(data: bytes) -> Iterator[tuple[int, int, str, bytes]]:
    try:
        with pa.ipc.open_stream(data) as reader:
            if reader.schema != _SCHEMA:
                return
            for batch in reader:
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
    except (pa.ArrowException, OSError):
        return  # cut, or of another version: what was read of it is compared with the listing all the same


class _Writer:
    """Makes an index; in memory, where 100,000 records are some dozen megabytes."""

    def __init__(self) -> None:
        self._sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        self._stream = pa.ipc.new_stream(self._sink, _SCHEMA, options=options)

    def add(self, listed: Sequence[Listed], records: Sequence[bytes]) -> None:
        """Append records, in the order of shards."""
        columns = [
            pa.array([one.shard for one in listed]),
            pa.array([one.size for one in listed]),
            pa.array([one.modified for one in listed]),
            pa.array(records, pa.binary()),
        ]
        self._stream.write_batch(pa.RecordBatch.from_arrays(columns, schema=_SCHEMA))

    def finish(self) -> bytes:
        """The content of the file."""
        self._stream.close()
        return bytes(self._sink.getvalue())


def read_records(
    files: Files, index_path: str | None, listed: Sequence[Listed], write_to: str | None = None
) -> Iterator[bytes]:
    """Yield the bytes of every listed record that is still there, in the order of shards.

    Args:
        files: the file system.
        index_path: the index, None where the listing shows none.
        listed: the records, in the order of shards.
        write_to: where a new index goes once all records were taken, if many are in none; None to write none.
    """
    copies = _Copies(files.read(index_path) if index_path is not None else None)
    index = _Writer() if write_to is not None else None
    num_new = 0
    for start in range(0, len(listed), _RECORDS_PER_BATCH):
        some = listed[start : start + _RECORDS_PER_BATCH]
        data = {one.path: copies.take(one) for one in some}
        unknown = [path for path, copy in data.items() if copy is None]
        data.update(files.read_many(unknown))
        num_new += len(unknown)
        there = [(one, record) for one in some if (record := data[one.path]) is not None]
        if index is not None:
            index.add([one for one, _ in there], [record for _, record in there])
        yield from (record for _, record in there)
    if index is not None and write_to is not None and num_new >= _MIN_NEW:
        files.write(write_to, index.finish())
