"""Source shards: fixed ranges of rows with their keys, written once and then only compared."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.dataset import Dataset
from storage.fingerprint import fingerprint
from storage.record import CommitRecord, ShardStatus, UnitDescription
from storage.writer import ShardWriter
from tasks.sources.digest import RowsDigest

LAYER = "source"
_VERSION = "1"


def key_digits(number_sample_per_shard: int) -> int:
    """Digits of the row's number in a key, after img2dataset: max(1, ceil(log10(n)))."""
    return max(1, len(str(number_sample_per_shard - 1)))


def keys(shard: int, num_rows: int, number_sample_per_shard: int) -> pa.Array:
    """The keys of a shard's rows: shard and row number, padded with zeros, as img2dataset numbers its samples."""
    digits = key_digits(number_sample_per_shard)
    numbers = pa.array(np.arange(num_rows, dtype=np.int64) + shard * 10**digits)
    return pc.utf8_lpad(numbers.cast(pa.string()), width=5 + digits, padding="0")


def cut(batches: Iterator[pa.RecordBatch], num_rows: int) -> Iterator[pa.Table]:
    """Cut a stream of batches into tables of `num_rows`, the last one perhaps shorter."""
    pending: list[pa.RecordBatch] = []
    num_pending = 0
    for batch in batches:
        start = 0
        while batch.num_rows - start >= num_rows - num_pending:
            take = num_rows - num_pending
            yield pa.Table.from_batches([*pending, batch.slice(start, take)])
            pending, num_pending = [], 0
            start += take
        if start < batch.num_rows:
            pending.append(batch.slice(start))
            num_pending += batch.num_rows - start
    if pending:
        yield pa.Table.from_batches(pending)


class SourceShards:
    """Writes the source shards of a dataset."""

    def __init__(self, dataset: Dataset, number_sample_per_shard: int, unit: str, config: dict[str, Any]) -> None:
        self._dataset = dataset
        self._number_sample_per_shard = number_sample_per_shard
        self._unit = UnitDescription(name=unit, version=_VERSION, config=config)

    def agrees(self, shard: int, rows: pa.Table, committed: Mapping[int, ShardStatus]) -> bool | None:
        """Whether the committed shard is of these rows; None if it is not committed."""
        status = committed.get(shard)
        return None if status is None else status.fingerprint == self._fingerprint(rows)

    def write(self, shard: int, rows: pa.Table) -> None:
        """Write and commit a shard of rows without keys."""
        start = time.time()
        keyed = rows.add_column(0, "key", keys(shard, rows.num_rows, self._number_sample_per_shard))
        with ShardWriter(self._dataset, LAYER, shard, keyed.schema) as writer:
            writer.write(keyed)
            written = writer.close()
            end = time.time()
            record = CommitRecord(
                count=rows.num_rows,
                successes=rows.num_rows,
                duration=end - start,
                start_time=start,
                end_time=end,
                layer=LAYER,
                shard=shard,
                rows=written.num_rows,
                num_bytes=written.num_bytes,
                sha256=written.sha256,
                fingerprint=self._fingerprint(rows),
                unit=self._unit,
                versions={"pyarrow": pa.__version__},
            )
            writer.commit(record)

    def _fingerprint(self, rows: pa.Table) -> str:
        digest = RowsDigest()
        for batch in rows.to_batches():
            digest.update(batch)
        return fingerprint(LAYER, _VERSION, self._number_sample_per_shard, digest.hexdigest())
