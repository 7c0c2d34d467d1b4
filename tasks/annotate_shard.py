"""Make layers of one shard from its stored images."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from controlmill.errors import StorageError
from storage.dataset import Dataset
from storage.record import CommitRecord, LayerInput
from tasks.annotators.base import Annotator
from tasks.annotators.maps import make_map
from tasks.images.decode import decode_stored
from tasks.images.types import Pixels
from tasks.progress import Report, ShardProgress, ignore
from tasks.rows import Map
from tasks.shard_files import LayerFile

_ROWS_PER_GROUP = 64
"""Images that are decoded at once, unless a network takes more."""

Group = tuple[list[Pixels], list[str]]
"""Images and their keys."""
MakeMaps = Callable[[Iterable[Group]], Iterator[list[list[Map]]]]
"""For each group, in order, the maps of each annotator with a network; it may take several groups before it gives the
maps of the first."""


def annotate_shard(
    dataset: Dataset,
    shard: int,
    units: Sequence[Annotator],
    make_network_maps: MakeMaps | None,
    num_parallel: int = 1,
    report: Report = ignore,
) -> list[CommitRecord]:
    """Make the layers of `units` for a shard whose images are committed; returns their commit records.

    Each stored image is decoded once for all of them. A row whose annotation fails has a null map and a reason.

    Args:
        dataset: where it is.
        shard: its number.
        units: annotators, not set up.
        make_network_maps: where the maps come from of those `units` that need weights, in their order; the others work
            here, in threads. None where there are no such.
        num_parallel: tasks like this one that share the machine.
        report: called as rows are done.

    Raises:
        StorageError: the images are not there, or the layers cannot be written.
    """
    images = dataset.layer("image")
    made_from = images.record(shard)
    if made_from is None:
        raise StorageError(f"{dataset.uri}: shard {shard:05d} has no images to annotate; run `controlmill build` first")
    light = [unit for unit in units if not unit.needed_weights()]
    for unit in light:
        unit.setup("cpu")
    num_rows = max([_ROWS_PER_GROUP, *(unit.batch_size for unit in units if unit not in light)])
    num_threads = max(1, (os.cpu_count() or 1) // num_parallel)
    waiting: deque[tuple[list[str], list[list[Map]]]] = deque()
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(num_threads, thread_name_prefix="annotate"))

        def groups() -> Iterator[Group]:
            for batch in images.iter_batches(shard, ["key", "image"], num_rows):
                rows = batch.to_pylist()
                keys = [row["key"] for row in rows]
                pixels = list(pool.map(lambda row: decode_stored(row["image"]["bytes"]), rows))
                waiting.append((keys, [_in_threads(unit, pixels, keys, pool) for unit in light]))
                yield pixels, keys

        layers = _Layers(stack, dataset, shard, units)
        for of_networks in (make_network_maps or _none)(groups()):
            keys, of_light = waiting.popleft()
            layers.write(keys, of_light, of_networks)
            report(layers.progress)
        return layers.commit(LayerInput(fingerprint=made_from.fingerprint, sha256=made_from.sha256))


def _none(groups: Iterable[Group]) -> Iterator[list[list[Map]]]:
    for _ in groups:
        yield []


def _in_threads(unit: Annotator, pixels: list[Pixels], keys: list[str], pool: ThreadPoolExecutor) -> list[Map]:
    return list(pool.map(lambda image, key: make_map(unit, image, key), pixels, keys))


class _Layers:
    """The files of all layers that are made together, and how far they are."""

    def __init__(self, stack: ExitStack, dataset: Dataset, shard: int, units: Sequence[Annotator]) -> None:
        self.progress = ShardProgress(shard)
        self._files = [
            (LayerFile(stack, dataset, shard, unit, "stored"), bool(unit.needed_weights())) for unit in units
        ]

    def write(self, keys: list[str], of_light: list[list[Map]], of_networks: list[list[Map]]) -> None:
        """Append the maps of some rows: those of annotators without weights, and of those with."""
        light, networks = iter(of_light), iter(of_networks)
        made = [next(networks if needs_weights else light) for _, needs_weights in self._files]
        for (file, _), maps in zip(self._files, made, strict=True):
            file.write(keys, maps)
        for of_row in zip(*made, strict=True):
            self.progress.add(next((one.reason for one in of_row if one.reason), None))

    def commit(self, image: LayerInput) -> list[CommitRecord]:
        """Make the files visible, one after the other."""
        return [file.commit(image) for file, _ in self._files]
