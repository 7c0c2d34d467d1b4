"""Which rows of a dataset are trained on, from its commit records and small columns, before an image is read."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from controlmill.config.training_data import TrainingDataOptions
from controlmill.errors import DatasetMismatchError, StorageError
from storage.dataset import Dataset
from storage.filesystem import redact
from storage.record import CommitRecord, ShardStatus
from storage.row_ranges import RowRanges
from storage.schema import CONDITION_COLUMN
from training.reader.geometry import bucket_sizes, buckets_of
from training.reader.order import ROWS_PER_CHUNK, Rows, scrambled

_EMPTY_FLAGS: Final = ("empty", "flat", "uniform")
_NUM_THREADS: Final = 8
_NUM_NAMED: Final = 5
_HELD_OUT_SHARE: Final = 10


@dataclass(frozen=True)
class DatasetIndex:
    """The rows to train on. Rows are numbered over all shards, failed and empty ones included."""

    shards: NDArray[np.int64]
    """Numbers of the shards, ascending."""
    first_rows: Rows
    """Number of the first row of each shard, and the number of all rows at the end."""
    rows: Rows
    """The rows to train on, ascending."""
    chunks: Rows
    """The chunk of each row to train on: its first row."""
    sizes: NDArray[np.int32]
    """(width, height) of each row to train on."""
    held_out: Rows
    """Rows kept for the probe, ordered by the hash of their key; all of one bucket."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Rows that are not trained on, by cause."""
    fingerprint: str = ""
    """Changes where the layers that are read change."""

    def locate(self, row: int) -> tuple[int, int]:
        """Shard of a row, and its place in it."""
        at = int(np.searchsorted(self.first_rows, row, side="right")) - 1
        return int(self.shards[at]), row - int(self.first_rows[at])

    def chunk_stop(self, first_row: int) -> int:
        """The row after the chunk that begins with `first_row`."""
        at = int(np.searchsorted(self.first_rows, first_row, side="right"))
        return min(first_row + ROWS_PER_CHUNK, int(self.first_rows[at]))

    def chunk_of(self, row: int) -> int:
        """First row of the chunk of a row."""
        at = int(np.searchsorted(self.first_rows, row, side="right")) - 1
        return row - (row - int(self.first_rows[at])) % ROWS_PER_CHUNK


def layer_statuses(dataset: Dataset, names: tuple[str, ...]) -> dict[str, dict[int, ShardStatus]]:
    """The committed shards of the layers, which must all be there and made from the images that are there now.

    Raises:
        StorageError: a layer is missing.
        DatasetMismatchError: a layer lacks shards, or was made from other images.
    """
    image, *others = names
    records = {name: dataset.layer(name).records() for name in names}
    if not records[image]:
        raise StorageError(f"{redact(dataset.uri)}: there is no layer {image}; run `controlmill build` first")
    for name in others:
        if not records[name]:
            there = ", ".join(layer for layer in dataset.layers() if layer not in ("source", image)) or "none"
            raise StorageError(f"{redact(dataset.uri)}: there is no layer {name} (there are: {there}); make it first")
        stale = [shard for shard, record in records[image].items() if not _fits(records[name].get(shard), record)]
        if stale:
            raise DatasetMismatchError(
                f"{redact(dataset.uri)}: {name} lacks {len(stale)} of {len(records[image])} shards "
                f"({_listed(stale)}), or has them of other images; run the command again that makes {name}"
            )
    return {name: {shard: ShardStatus.of(records[name][shard]) for shard in sorted(records[image])} for name in names}


def build_index(
    dataset: Dataset,
    options: TrainingDataOptions,
    statuses: Mapping[str, Mapping[int, ShardStatus]],
    *,
    seed: int,
    num_probe_rows: int,
    num_probe_shards: int | None = None,
) -> DatasetIndex:
    """Read the small columns of all shards and choose the rows.

    The probe's rows are of the first `num_probe_shards` shards, so that they stay the same while a dataset grows.

    Raises:
        DatasetMismatchError: no row is left to train on.
    """
    shards = sorted(statuses[options.image_column])
    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="index") as pool:
        parts = list(pool.map(_Looks(dataset, options, statuses, with_keys=num_probe_rows > 0), shards))
    first_rows = np.cumsum([0, *(len(part.kept) for part in parts)], dtype=np.int64)
    rows = np.flatnonzero(np.concatenate([part.kept for part in parts]))
    sizes = np.concatenate([part.sizes for part in parts])
    left_out = sum((part.left_out for part in parts), _not_built(dataset, shards))
    held_out = np.empty(0, np.int64)
    if num_probe_rows:
        hashes = np.concatenate([part.key_hashes for part in parts])
        old = rows[rows < first_rows[min(num_probe_shards or len(shards), len(shards))]]
        held_out = _held_out(old, sizes, hashes, options, num_probe_rows)
        rows = np.setdiff1d(rows, held_out, assume_unique=True)
        left_out["held out for the probe"] = len(held_out)
    if options.max_train_samples is not None and options.max_train_samples < len(rows):
        left_out["max_train_samples"] = len(rows) - options.max_train_samples
        drawn = np.argsort(scrambled(rows, seed, 0, purpose=3), kind="stable")[: options.max_train_samples]
        rows = np.sort(rows[drawn])
    if not len(rows):
        causes = ", ".join(f"{num:,} {cause}" for cause, num in left_out.items()) or "the dataset has none"
        raise DatasetMismatchError(f"{redact(dataset.uri)}: no row is left to train on: {causes}")
    of_shard = np.searchsorted(first_rows, rows, side="right") - 1
    chunks = rows - (rows - first_rows[of_shard]) % ROWS_PER_CHUNK
    return DatasetIndex(
        np.array(shards, np.int64), first_rows, rows, chunks, sizes[rows], held_out, left_out, layers_hash(statuses)
    )


def layers_hash(statuses: Mapping[str, Mapping[int, ShardStatus]], num_shards: int | None = None) -> str:
    """A hash that changes where one of the layers does; of their first `num_shards` shards, by default of all."""
    layers = [[(s, of[s].sha256) for s in sorted(of)[:num_shards]] for _, of in sorted(statuses.items())]
    return hashlib.sha256(repr(layers).encode()).hexdigest()


def _not_built(dataset: Dataset, shards: list[int]) -> Counter[str]:
    """Rows of shards that were planned and have no images."""
    planned = dataset.layer("source").statuses()
    return +Counter({"in shards that are not built": sum(planned[s].rows for s in planned.keys() - set(shards))})


def _held_out(
    rows: Rows, sizes: NDArray[np.int32], hashes: NDArray[np.uint64], options: TrainingDataOptions, num_wanted: int
) -> Rows:
    """The rows of the most frequent bucket whose keys have the smallest hashes: the probe is one batch."""
    buckets = buckets_of(sizes[rows], bucket_sizes(options))
    alike = rows[buckets == np.bincount(buckets).argmax()] if len(rows) else rows
    by_hash = alike[np.argsort(hashes[alike], kind="stable")]
    return by_hash[: min(num_wanted, len(rows) // _HELD_OUT_SHARE)]


@dataclass(frozen=True)
class _Part:
    """What the small columns of one shard say."""

    kept: NDArray[np.bool_]
    sizes: NDArray[np.int32]
    key_hashes: NDArray[np.uint64]
    left_out: Counter[str]


class _Looks:
    """Reads the small columns of one shard."""

    def __init__(
        self,
        dataset: Dataset,
        options: TrainingDataOptions,
        statuses: Mapping[str, Mapping[int, ShardStatus]],
        *,
        with_keys: bool,
    ) -> None:
        self._options = options
        self._num_rows = {shard: status.rows for shard, status in statuses[options.image_column].items()}
        names = ["width", "height", *(["key"] if with_keys else [])]
        self._image = RowRanges(dataset, options.image_column, names, statuses[options.image_column])
        self._conditions = {}
        for name in options.condition:
            schema = dataset.layer(name).schema(min(statuses[name]))
            check_condition(name, schema)
            flags = [flag for flag in _EMPTY_FLAGS if flag in schema.names]
            self._conditions[name] = RowRanges(dataset, name, ["reason", *flags], statuses[name])

    def __call__(self, shard: int) -> _Part:
        num_rows = self._num_rows[shard]
        image = self._image.read(shard, 0, num_rows)
        kept = np.ones(num_rows, bool)
        left_out: Counter[str] = Counter()
        for name, condition in self._conditions.items():
            table = condition.read(shard, 0, num_rows)
            causes = {f"without {name}": ~_null(table, "reason")}
            if not self._options.keep_empty_hints:
                flags = [flag for flag in table.column_names if flag != "reason"]
                causes |= {f"{name} {flag}": table.column(flag).fill_null(False).to_numpy() for flag in flags}
            for cause, now in causes.items():
                left_out[cause] += int(np.count_nonzero(kept & now))
                kept &= ~now
        sizes = np.stack([image.column(name).to_numpy() for name in ("width", "height")], axis=1).astype(np.int32)
        keys = image.column("key").to_pylist() if "key" in image.column_names else []
        return _Part(kept, sizes, np.array([_hashed(key) for key in keys], np.uint64), +left_out)


def check_condition(name: str, schema: pa.Schema) -> None:
    """Refuse a layer that holds no maps.

    Raises:
        DatasetMismatchError: it has no column `conditioning_image`.
    """
    if CONDITION_COLUMN not in schema.names:
        raise DatasetMismatchError(f"condition: the layer {name} holds no maps (it has no column {CONDITION_COLUMN})")


def _null(table: pa.Table, name: str) -> Any:
    return table.column(name).is_null().to_numpy()


def _hashed(key: str) -> int:
    """A hash that no seed changes: runs of other seeds hold out the same rows."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _fits(made: CommitRecord | None, image: CommitRecord) -> bool:
    if made is None or made.rows != image.rows:
        return False
    made_from = made.inputs.get(image.layer)
    return made_from is None or made_from.sha256 == image.sha256


def _listed(shards: list[int]) -> str:
    named = ", ".join(f"{shard:05d}" for shard in shards[:_NUM_NAMED])
    return f"{named}, ..." if len(shards) > _NUM_NAMED else named
