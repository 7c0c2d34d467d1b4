"""Retrying: the failed rows of chosen reasons become new source shards."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from controlmill.errors import DatasetMismatchError
from controlmill.reasons import Reason
from storage.dataset import Dataset
from storage.filesystem import redact
from tasks.sources.shards import LAYER, SourceShards, cut

_UNIT = "retry"
_IMAGE = "image"
_ROWS = 16_384

Keys = np.ndarray[tuple[int], np.dtype[np.int64]]


def plan_retry(dataset: Dataset, reasons: Iterable[Reason]) -> list[int]:
    """Write source shards of the rows that failed for one of `reasons`; return all retry shards, complete or not.

    Rows come in the order of their keys, a row that was retried already is not taken again (its retry may be, if that
    failed too). A call that was killed and is made again ends with the same shards. Memory: 8 bytes for each row that
    was ever retried, and one shard.

    Raises:
        DatasetMismatchError: the dataset was never planned to its end.
        StorageWriteError: the dataset cannot be written.
    """
    state = dataset.description().source
    if state is None or not state.history or not all(entry.complete for entry in state.history):
        raise DatasetMismatchError(
            f"the rows of {redact(dataset.uri)} are not all planned yet: run `controlmill build` to its end first"
        )
    size = int(state.options["number_sample_per_shard"])
    layer = dataset.layer(LAYER)
    records = list(layer.iter_records())
    retries = [record.shard for record in records if record.unit.name == _UNIT]
    wanted = sorted({str(reason) for reason in reasons})
    shards = SourceShards(dataset, size, _UNIT, {"reasons": wanted, "number_sample_per_shard": size})
    next_shard = max((record.shard for record in records), default=-1) + 1
    retried = _retried(dataset, retries)
    for rows in cut(_iter_failed(dataset, [record.shard for record in records], wanted, retried), size):
        shards.write(next_shard, rows)
        retries.append(next_shard)
        next_shard += 1
    return retries


def _retried(dataset: Dataset, shards: list[int]) -> Keys:
    """The keys of all rows that were retried, sorted."""
    layer = dataset.layer(LAYER)
    batches = (batch for shard in shards for batch in layer.iter_batches(shard, ["retry_of"], _ROWS))
    numbers = [_numbers(batch.column("retry_of")) for batch in batches]
    return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *numbers]))


def _iter_failed(dataset: Dataset, shards: list[int], reasons: list[str], retried: Keys) -> Iterator[pa.RecordBatch]:
    """Yield the failed rows of every committed shard as rows of the source layer without keys."""
    known = set(shards)
    for record in dataset.layer(_IMAGE).iter_records():
        shard = record.shard
        if shard not in known or record.reasons.keys().isdisjoint(reasons):
            continue
        failed = _failed_keys(dataset, shard, reasons)
        failed = failed[~np.isin(failed, retried)]
        if not len(failed):
            continue
        for batch in dataset.layer(LAYER).iter_batches(shard, batch_rows=_ROWS):
            rows = batch.filter(pa.array(np.isin(_numbers(batch.column("key")), failed)))
            if rows.num_rows:
                yield _as_retry(rows)


def _failed_keys(dataset: Dataset, shard: int, reasons: list[str]) -> Keys:
    parts = [np.empty(0, dtype=np.int64)]
    for batch in dataset.failures.iter_batches(shard, columns=["key", "reason"], batch_rows=_ROWS):
        chosen = pc.is_in(batch.column("reason"), value_set=pa.array(reasons, pa.string()))
        parts.append(_numbers(batch.column("key").filter(chosen)))
    return np.concatenate(parts)


def _as_retry(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of the source layer without their keys, which become `retry_of`."""
    names = [name for name in rows.schema.names if name != "key"]
    arrays = [rows.column("key" if name == "retry_of" else name) for name in names]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([rows.schema.field(name) for name in names]))


def _numbers(keys: pa.Array) -> Keys:
    return np.asarray(keys.cast(pa.int64()).to_numpy(zero_copy_only=False), dtype=np.int64)
