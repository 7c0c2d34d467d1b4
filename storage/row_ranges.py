"""Reading some rows of some shards, in any order and from several threads: what training does."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from controlmill.errors import CorruptShardError
from storage.dataset import Dataset
from storage.filesystem import one_line, redact, remote_call
from storage.record import ShardStatus

_OPEN_FILES_PER_THREAD = 32


class RowRanges:
    """Rows of one layer by shard and range; files stay open for a while, footers for good.

    Whole row groups are fetched, with one request per wanted column; ranges that begin and end where row groups do read
    nothing twice.
    """

    def __init__(
        self, dataset: Dataset, layer: str, columns: Sequence[str], statuses: Mapping[int, ShardStatus]
    ) -> None:
        """`columns`: names, with dots for a part of a struct ("image.bytes"); `statuses`: of the committed shards."""
        self._dataset = dataset
        self._layer = dataset.layer(layer)
        self._columns = list(columns)
        self._statuses = statuses
        self._footers: dict[int, pq.FileMetaData] = {}
        self._of_thread = threading.local()

    def read(self, shard: int, start: int, stop: int) -> pa.Table:
        """Rows `start` up to `stop` of a shard.

        Raises:
            CorruptShardError: the file is missing, cut, or not the one that its commit record describes.
        """
        try:
            file = self._open(shard)
            groups, before = _groups(file.metadata, start, stop)
            table = file.read_row_groups(groups, columns=self._columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise self._corrupt(shard, one_line(error)) from error
        return table.slice(start - before, stop - start)

    def close(self) -> None:
        """Forget the open files of all threads; each is closed with its last use."""
        self._of_thread = threading.local()

    def _open(self, shard: int) -> pq.ParquetFile:
        files: OrderedDict[int, pq.ParquetFile] | None = getattr(self._of_thread, "files", None)
        if files is None:
            files = self._of_thread.files = OrderedDict()
        file = files.pop(shard, None) or self._opened(shard)
        files[shard] = file
        if len(files) > _OPEN_FILES_PER_THREAD:
            files.popitem(last=False)[1].close()
        return file

    def _opened(self, shard: int) -> pq.ParquetFile:
        path = self._layer.path(shard)
        status = self._statuses[shard]
        source = self._source(path)
        num_bytes = source.size()
        if num_bytes != status.num_bytes:
            raise self._corrupt(shard, f"it has {num_bytes} bytes, its commit record says {status.num_bytes}")
        # remote: neighbouring columns in one request; local: nothing is fetched that was not asked for
        file = pq.ParquetFile(source, metadata=self._footers.get(shard), pre_buffer=not self._dataset.files.is_local)
        if file.metadata.num_rows != status.rows:
            raise self._corrupt(shard, f"it has {file.metadata.num_rows} rows, its commit record says {status.rows}")
        self._footers[shard] = file.metadata
        return file

    def _source(self, path: str) -> pa.NativeFile:
        if self._dataset.files.is_local:
            return pa.OSFile(path)
        with remote_call("read", path):
            opened: Any = self._dataset.fs.open(path, "rb", cache_type="none")
        return pa.PythonFile(opened, mode="r")

    def _corrupt(self, shard: int, what: str) -> CorruptShardError:
        return CorruptShardError(
            f"{redact(self._layer.path(shard))}: {what}; delete {redact(self._layer.record_path(shard))} to have the "
            "shard made again"
        )


def _groups(metadata: pq.FileMetaData, start: int, stop: int) -> tuple[list[int], int]:
    """The row groups that hold rows `start` to `stop`, and how many rows come before them."""
    groups: list[int] = []
    at = before = 0
    for group in range(metadata.num_row_groups):
        following = at + metadata.row_group(group).num_rows
        if following > start and at < stop:
            if not groups:
                before = at
            groups.append(group)
        at = following
        if at >= stop:
            break
    return groups, before
