"""Writing one Parquet file of a layer: streamed into a temporary file, made visible in one step, recorded last."""

import contextlib
import hashlib
import os
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.filesystem import writing
from storage.record import CommitRecord
from storage.schema import is_blob, is_image

if TYPE_CHECKING:
    from storage.dataset import Dataset

ROWS_PER_GROUP = 64
"""Rows of images per row group: few enough for random access, enough to keep the footer small."""
BLOB_BYTES_PER_GROUP = 16 * 1024 * 1024
"""Encoded bytes per row group at most; a single larger row has a group of its own."""
ROWS_PER_GROUP_WITHOUT_BLOBS = 16_384
_BUFFER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A complete Parquet file that is not visible yet."""

    path_tmp: str
    sha256: str
    num_bytes: int
    num_rows: int


class ShardWriter:
    """Writes `<layer>/<NNNNN>.parquet`; memory is bounded by one row group, whatever the size of the file.

    Leaving the `with` block without a commit, or by an error, leaves nothing behind.

    Raises:
        StorageWriteError: disk full, no permission, read-only, upload refused; from every method.
    """

    def __init__(self, dataset: "Dataset", layer_name: str, shard: int, schema: pa.Schema) -> None:
        self._files = dataset.files
        self._layer = dataset.layer(layer_name)
        self._shard = shard
        self._path = self._layer.path(shard)
        self._schema = schema
        self._groups = _RowGroups(schema)
        self._written: WrittenFile | None = None
        self._temporary = self._files.new_temporary(self._path)
        self._sink: _Sink | None = None
        try:
            with writing(self._path):
                self._sink = _Sink(self._temporary)
                # a Parquet file is dozens of small pieces: for each one by itself Arrow would wait for Python's lock
                self._stream = pa.BufferedOutputStream(pa.PythonFile(self._sink, mode="w"), _BUFFER_BYTES)
                self._parquet = pq.ParquetWriter(self._stream, schema, **_options(schema))
        except BaseException:
            self.abort()
            raise

    def write(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Append rows of the writer's schema; how they are cut into batches does not change the file."""
        for batch in rows.to_batches() if isinstance(rows, pa.Table) else [rows]:
            for group in self._groups.add(batch):
                self._write_group(group)

    def close(self) -> WrittenFile:
        """Write what is left and the footer, and sync; the file is not visible yet."""
        if self._written is None:
            if self._sink is None:
                raise ValueError(f"the writer of {self._path} was aborted")
            for group in self._groups.rest():
                self._write_group(group)
            with writing(self._path):
                self._parquet.close()
                self._stream.flush()
                self._sink.sync()
                self._stream.close()
            self._written = WrittenFile(
                self._temporary, self._sink.sha256, self._sink.num_bytes, self._groups.num_rows_added
            )
        return self._written

    def commit(self, record: CommitRecord | None) -> None:
        """Make the file visible, then its record; None for a file that another layer's record covers.

        A record that is there already goes first: no record ever stands beside a file that it does not describe.
        """
        written = self.close()
        if record is not None and record.sha256 != written.sha256:
            raise ValueError(f"the record of {self._path} is that of another file")
        replaces = self._files.stat(self._layer.record_path(self._shard)) is not None
        if replaces:
            self._layer.delete_record(self._shard)
        # a first record is synced with it: where only the record's name survives a power cut, nothing is committed
        self._files.publish(written.path_tmp, self._path, durably=replaces or record is None)
        self._sink = None
        if record is not None:
            self._layer.write_record(record)

    def abort(self) -> None:
        """Give up: close and delete the temporary file."""
        if self._sink is not None:
            self._sink.give_up()
            parquet = getattr(self, "_parquet", None)
            if parquet is not None:
                with contextlib.suppress(OSError):
                    parquet.close()
                    self._stream.close()
        self._sink = None
        self._files.discard_temporary(self._temporary)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _write_group(self, group: pa.Table) -> None:
        with writing(self._path):
            self._parquet.write_table(group, row_group_size=max(1, group.num_rows))


class _RowGroups:
    """Cuts a stream of batches into row groups by a rule that looks at rows only, never at batches."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._blobs = [index for index, field in enumerate(schema) if is_blob(field)]
        self._max_rows = ROWS_PER_GROUP if self._blobs else ROWS_PER_GROUP_WITHOUT_BLOBS
        self._pending: list[pa.RecordBatch] = []
        self._num_rows = 0
        self._num_bytes = 0
        self.num_rows_added = 0

    def add(self, batch: pa.RecordBatch) -> "deque[pa.Table]":
        """Take a batch; give the row groups that are full now."""
        full: deque[pa.Table] = deque()
        if batch.schema != self._schema:
            raise ValueError(
                f"batch has columns {batch.schema.names}, the layer has {self._schema.names}, or other types"
            )
        self.num_rows_added += batch.num_rows
        sizes = self._blob_bytes(batch)
        start = 0
        while start < batch.num_rows:
            stop = self._stop(sizes, start)
            if stop > start:
                self._pending.append(batch.slice(start, stop - start))
                self._num_rows += stop - start
                self._num_bytes += int(sizes[start:stop].sum())
            if stop < batch.num_rows or self._num_rows == self._max_rows:
                full.extend(self.rest())
            start = stop
        return full

    def rest(self) -> "deque[pa.Table]":
        """Give the row group that is not full, if there is one."""
        pending, self._pending = self._pending, []
        self._num_rows = self._num_bytes = 0
        return deque([pa.Table.from_batches(pending, self._schema).combine_chunks()] if pending else [])

    def _stop(self, sizes: "np.ndarray[Any, np.dtype[np.int64]]", start: int) -> int:
        window = sizes[start : start + self._max_rows - self._num_rows]
        fitting = int(np.searchsorted(np.cumsum(window), BLOB_BYTES_PER_GROUP - self._num_bytes, side="right"))
        if fitting == 0 and self._num_rows == 0:
            fitting = 1
        return start + fitting

    def _blob_bytes(self, batch: pa.RecordBatch) -> "np.ndarray[Any, np.dtype[np.int64]]":
        total = np.zeros(batch.num_rows, dtype=np.int64)
        for index in self._blobs:
            column = batch.column(index)
            data = pc.struct_field(column, "bytes") if is_image(self._schema.field(index)) else column
            lengths = pc.binary_length(data).fill_null(0)
            total += lengths.to_numpy(zero_copy_only=False)
        return total


class _Sink:
    """A local file that hashes and counts what goes into it."""

    def __init__(self, path: str) -> None:
        self._file = Path(path).open("xb")  # noqa: SIM115 - closed by close or give_up, of which abort calls one
        self._hash = hashlib.sha256()
        self._gave_up = False
        self.num_bytes = 0

    @property
    def closed(self) -> bool:
        """Whether nothing can be written any more."""
        return False

    @property
    def sha256(self) -> str:
        """Hash of everything written, hex."""
        return self._hash.hexdigest()

    def write(self, data: Any) -> int:
        """Append bytes."""
        view = memoryview(data)
        if not self._gave_up:  # pyarrow writes a footer even while it is closed after an error
            self._file.write(view)
            self._hash.update(view)
        self.num_bytes += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        """Bytes written."""
        return self.num_bytes

    def flush(self) -> None:
        """Do nothing: `sync` does it once."""

    def sync(self) -> None:
        """Bring everything to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def give_up(self) -> None:
        """Close the file and swallow what still comes."""
        self._gave_up = True
        with contextlib.suppress(OSError):
            self._file.close()


@lru_cache(maxsize=8)
def _options(schema: pa.Schema) -> dict[str, Any]:
    """Parquet options by leaf column: blobs as they are, everything else snappy and dictionary-encoded."""
    probe = pa.BufferOutputStream()
    with pq.ParquetWriter(probe, schema):
        pass
    parquet_schema = pq.ParquetFile(pa.BufferReader(probe.getvalue())).schema
    leaves = [parquet_schema.column(index).path for index in range(len(parquet_schema))]
    prefixes = tuple(f"{field.name}." for field in schema if is_blob(field))
    blobs = [leaf for leaf in leaves if prefixes and f"{leaf}.".startswith(prefixes)]
    others = [leaf for leaf in leaves if leaf not in blobs]
    return {
        "version": "2.6",
        "compression": dict.fromkeys(blobs, "NONE") | dict.fromkeys(others, "SNAPPY"),
        "use_dictionary": others,
        "column_encoding": dict.fromkeys(blobs, "PLAIN") or None,
        "write_statistics": others,
        "write_page_index": True,
        "store_schema": True,
    }
