"""Make layers of one shard from its stored images: the way of a dataset that was pulled before."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from controlmill.config import LayerOptions
from controlmill.errors import StorageError
from storage.dataset import Dataset
from storage.record import CommitRecord, LayerInput
from tasks.annotators.base import Annotator
from tasks.annotators.maps import make_map
from tasks.images.decode import decode_stored
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
    units = [unit for unit in annotators(options) if unit.name in names]
    for unit in units:
        unit.setup("cpu")
    progress = ShardProgress(shard)
    num_threads = max(1, (os.cpu_count() or 1) // num_parallel)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(num_threads, thread_name_prefix="annotate"))
        files = [LayerFile(stack, dataset, shard, unit, "stored") for unit in units]
        for batch in images.iter_batches(shard, ["key", "image"], _ROWS_PER_WRITE):
            rows = batch.to_pylist()
            keys = [row["key"] for row in rows]
            made = list(pool.map(lambda row: _maps(units, row["image"]["bytes"], row["key"]), rows))
            for index, file in enumerate(files):
                file.write(keys, [maps[index] for maps in made])
            for maps in made:
                progress.add(next((one.reason for one in maps if one.reason), None))
            report(progress)
        image = LayerInput(fingerprint=made_from.fingerprint, sha256=made_from.sha256)
        return [file.commit(image) for file in files]


def _maps(units: list[Annotator], encoded: bytes, key: str) -> list[Map]:
    pixels = decode_stored(encoded)
    return [make_map(unit, pixels, key) for unit in units]
