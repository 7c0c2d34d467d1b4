"""Bytes of images that need no pulling: files, tar members, values of a Parquet column."""

import threading
from collections import OrderedDict, deque
from typing import Any

import pyarrow as pa

from controlmill.config.pull import PullOptions
from controlmill.errors import StorageError
from controlmill.reasons import Reason, RowFailure
from storage.filesystem import one_line, open_files, redact
from storage.parquet import open_parquet
from tasks.sources.location import Location

_ROWS_PER_READ = 64
_READS_KEPT = 4
_FILES_KEPT = 2


class LocalReader:
    """Reads images by their `location`; consecutive rows of one Parquet file are read a few dozen at a time.

    Safe to use from several threads that go through the rows in about the same order.
    """

    def __init__(self, options: PullOptions) -> None:
        self._max_bytes = options.max_bytes
        self._columns: OrderedDict[tuple[str, str], _ParquetColumn] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, location: str) -> bytes | RowFailure:
        """The bytes at a `location`; FILE_MISSING, TRUNCATED or TOO_LARGE as a value where there are none."""
        place = Location.from_text(location)
        try:
            data = self._parquet_value(place) if place.row is not None else self._file_range(place)
        except FileNotFoundError:
            return RowFailure(Reason.FILE_MISSING, f"{redact(place.path)}: there is no such file")
        except (StorageError, OSError, pa.ArrowException) as error:
            return RowFailure(Reason.FILE_MISSING, f"{redact(place.path)}: cannot be read: {one_line(error)}")
        if data is None:
            return RowFailure(Reason.FILE_MISSING, f"{redact(place.path)}: there is no image in row {place.row}")
        if len(data) > self._max_bytes:
            return RowFailure(Reason.TOO_LARGE, f"more than {self._max_bytes:,} bytes (max_bytes)")
        if place.size is not None and len(data) < min(place.size, self._max_bytes + 1):
            return RowFailure(Reason.TRUNCATED, f"{redact(place.path)} ends {place.size - len(data):,} bytes too early")
        return data

    def _file_range(self, place: Location) -> bytes:
        files, path = open_files(place.path)
        start = place.offset or 0
        size = self._max_bytes + 1 if place.size is None else min(place.size, self._max_bytes + 1)
        with files.open(path) as file:
            file.seek(start)
            return file.read(size)

    def _parquet_value(self, place: Location) -> bytes | None:
        row, column = place.row or 0, place.column or ""
        with self._lock:
            reader = self._columns.pop((place.path, column), None) or _ParquetColumn(place.path, column)
            self._columns[place.path, column] = reader
            if len(self._columns) > _FILES_KEPT:
                self._columns.popitem(last=False)
            return reader.value(row)


class _ParquetColumn:
    """A window that moves forward over one column; memory is bounded by the window, not by the row group."""

    def __init__(self, path: str, column: str) -> None:
        files, local = open_files(path)
        source = local if files.is_local else files.open(local)
        self._file = open_parquet(source)
        if column not in self._file.schema_arrow.names:
            raise StorageError(f"it has no column {column!r}")
        self._column = column
        self._window: deque[tuple[int, pa.Array]] = deque(maxlen=_READS_KEPT)
        self._batches: Any = iter(())
        self._next_row = 0
        self._started = False

    def value(self, row: int) -> bytes | None:
        """The value of a row, None where there is none or no such row."""
        if not self._started or row < (self._window[0][0] if self._window else self._next_row):
            self._restart(row)
        while row >= self._next_row:
            batch = next(self._batches, None)
            if batch is None:
                return None
            self._window.append((self._next_row, batch.column(0)))
            self._next_row += batch.num_rows
        for first, values in self._window:
            if first <= row < first + len(values):
                value = values[row - first].as_py()
                data: bytes | None = value["bytes"] if isinstance(value, dict) else value
                return data
        return None

    def _restart(self, row: int) -> None:
        metadata = self._file.metadata
        first = group = 0
        while group < metadata.num_row_groups and row >= first + metadata.row_group(group).num_rows:
            first += metadata.row_group(group).num_rows
            group += 1
        groups = list(range(group, metadata.num_row_groups))
        self._window.clear()
        self._next_row = first
        self._started = True
        if groups:
            self._batches = self._file.iter_batches(_ROWS_PER_READ, row_groups=groups, columns=[self._column])
        else:
            self._batches = iter(())
