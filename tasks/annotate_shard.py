"""Make layers of one shard from its stored images: the way of a dataset that was pulled before."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from controlmill.config import LayerOptions
from controlmill.errors import StorageError
from storage.dataset import Dataset
from storage.fingerprint import fingerprint
from storage.record import CommitRecord, LayerInput
from tasks.annotators.base import Annotator
from tasks.annotators.maps import make_map, make_maps
from tasks.images.decode import decode_stored
from tasks.images.types import Pixels
from tasks.progress import Report, ShardProgress, ignore
from tasks.recipe import annotators
from tasks.rows import Map
from tasks.shard_files import LayerFile

_ROWS_PER_WRITE = 64


def annotate_shard(
    dataset: Dataset,
    shard: int,
    options: LayerOptions,
    names: Sequence[str],
    num_parallel: int = 1,
    report: Report = ignore,
) -> list[CommitRecord]:
    """Make the layers `names` of a shard whose images are committed; returns their commit records.

    Each stored image is decoded once for all of them. A row whose annotation fails has a null map and a reason.

    Raises:
        StorageError: the images are not there, or the layers cannot be written.
    """
    images = dataset.layer("image")
    made_from = images.record(shard)
    if made_from is None:
        raise StorageError(f"{dataset.uri}: shard {shard:05d} has no images to annotate; run `controlmill build` first")
    units = [_ready(unit) for unit in annotators(options) if unit.name in names]
    progress = ShardProgress(shard)
    num_threads = max(1, (os.cpu_count() or 1) // num_parallel)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(num_threads, thread_name_prefix="annotate"))
        files = [LayerFile(stack, dataset, shard, unit, "stored") for unit in units]
        for batch in images.iter_batches(shard, ["key", "image"], _ROWS_PER_WRITE):
            rows = batch.to_pylist()
            keys = [row["key"] for row in rows]
            pixels = list(pool.map(lambda row: decode_stored(row["image"]["bytes"]), rows))
            made = [_make(unit, pixels, keys, pool) for unit in units]
            for file, maps in zip(files, made, strict=True):
                file.write(keys, maps)
            for of_row in zip(*made, strict=True):
                progress.add(next((one.reason for one in of_row if one.reason), None))
            report(progress)
        image = LayerInput(fingerprint=made_from.fingerprint, sha256=made_from.sha256)
        return [file.commit(image) for file in files]


def _make(unit: Annotator, pixels: list[Pixels], keys: list[str], pool: ThreadPoolExecutor) -> list[Map]:
    """The maps of some rows: a network takes them in batches, anything else image by image in threads."""
    if unit.needed_weights():
        return make_maps(unit, pixels, keys)
    return list(pool.map(lambda image, key: make_map(unit, image, key), pixels, keys))


_loaded: dict[str, Annotator] = {}


def _ready(unit: Annotator) -> Annotator:
    """The unit with its weights loaded; a worker process loads the same ones once, for all of its shards."""
    wanted = fingerprint(unit.name, unit.version, unit.recipe(), getattr(unit, "batch_size", 1))
    if wanted not in _loaded:
        unit.setup("cpu")
        _loaded[wanted] = unit
    return _loaded[wanted]
