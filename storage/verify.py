"""Whether the files of a dataset are what its commit records say."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

from controlmill.errors import CorruptShardError
from storage.dataset import Dataset
from storage.layer import FAILURES, Layer
from storage.record import CommitRecord

_CHUNK_BYTES = 4 * 1024 * 1024
_IMAGE = "image"
_SOURCE = "source"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it should be."""

    layer: str
    shard: int
    message: str

    def __str__(self) -> str:
        return f"{self.layer}/{self.shard:05d}: {self.message}"


def _ignore(_record: CommitRecord) -> None:
    """Nobody wants to know."""


def verify(
    dataset: Dataset, *, deep: bool = False, done: Callable[[CommitRecord], None] = _ignore
) -> Iterator[Problem]:
    """Yield what is wrong with the committed shards, layer by layer.

    Always: the file's size, that a layer was made from the images (and the images from the source) that are there now,
    and that it has as many rows. `deep` reads every file: its hash, and that all layers of a shard have the same keys
    in the same order. Shards that are not committed are no problem, they are work to do. `done` is called with every
    shard that was looked at.
    """
    inputs = {name: dataset.layer(name).statuses() for name in (_SOURCE, _IMAGE)}
    for name in dataset.layers():
        layer = dataset.layer(name)
        sizes = {shard: size for shard, kind, size in layer.files() if kind == ".parquet"}
        for record in layer.iter_records():
            problems = [*_check_size(record, sizes[record.shard])]
            for used, made_from in record.inputs.items():
                now = inputs.get(used, {}).get(record.shard)
                if now is not None and now.sha256 != made_from.sha256:
                    problems.append(f"it was made from another {used}/{record.shard:05d}")
            images = inputs[_IMAGE].get(record.shard)
            if _IMAGE in record.inputs and images is not None and images.rows != record.rows:
                problems.append(f"it has {record.rows} rows, the images have {images.rows}")
            if deep and not problems:
                problems += _check_content(dataset, layer, record)
            yield from (Problem(name, record.shard, problem) for problem in problems)
            if name == _IMAGE and record.failures_sha256 is not None:
                yield from _check_failures(dataset, record, deep=deep)
            done(record)


def _check_size(record: CommitRecord, size: int) -> Iterator[str]:
    if size != record.num_bytes:
        yield f"it has {size} bytes, its commit record says {record.num_bytes}"


def _check_content(dataset: Dataset, layer: Layer, record: CommitRecord) -> Iterator[str]:
    if _sha256(dataset, layer.path(record.shard)) != record.sha256:
        yield "its bytes are not those of its commit record"
        return
    if _IMAGE not in record.inputs or not dataset.layer(_IMAGE).exists(record.shard):
        return
    try:
        pairs = zip_longest(_keys(layer, record.shard), _keys(dataset.layer(_IMAGE), record.shard))
        different = next((index for index, (one, other) in enumerate(pairs) if one != other), None)
    except CorruptShardError as error:
        yield str(error)
        return
    if different is not None:
        yield f"its keys are not those of the images, from row {different} on"


def _check_failures(dataset: Dataset, record: CommitRecord, *, deep: bool) -> Iterator[Problem]:
    path = dataset.failures.path(record.shard)
    if dataset.files.stat(path) is None:
        yield Problem(FAILURES, record.shard, "the file is missing")
    elif deep and _sha256(dataset, path) != record.failures_sha256:
        yield Problem(FAILURES, record.shard, "its bytes are not those of the images' commit record")


def _keys(layer: Layer, shard: int) -> Iterator[str]:
    for batch in layer.iter_batches(shard, columns=["key"], batch_rows=4096):
        yield from batch.column("key").to_pylist()


def _sha256(dataset: Dataset, path: str) -> str:
    digest = hashlib.sha256()
    with dataset.files.open(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
