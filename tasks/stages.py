"""Which work a shard still needs: everything from pulling on, some layers from its stored images, or nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controlmill.config import BuildConfig, LayerOptions
from storage.dataset import Dataset
from tasks.captioners.base import Captioner
from tasks.recipe import annotators, check, remember, remember_captions
from tasks.sources.plan import plan
from tasks.weights import find_all_weights

if TYPE_CHECKING:
    from storage.record import ShardStatus


@dataclass(frozen=True, slots=True)
class Work:
    """What one shard needs."""

    shard: int
    num_rows: int
    pull: bool
    """Pull it; else make `layers` from its stored images."""
    layers: tuple[str, ...]
    follows: bool = False
    """Whether the same run has pulled it before."""


def planned_shards(dataset: Dataset, config: BuildConfig, captioner: Captioner | None = None) -> Iterator[int]:
    """Check that the dataset fits the configuration, then plan its source; yields each shard once it is planned.

    Raises:
        ConfigError, DatasetMismatchError, SourceError: before anything is written, where it can be told before.
    """
    if config.incremental_mode == "overwrite":
        find_all_weights(annotators(config))
    else:
        check(dataset, config)
    shards = plan(dataset, config)
    if config.incremental_mode == "overwrite":
        dataset.describe(options={})
    remember(dataset, config)
    if captioner is not None:
        remember_captions(dataset, captioner)
    yield from shards


def shards_with_images(dataset: Dataset, options: LayerOptions) -> Iterator[int]:
    """Check the annotators, remember them, and yield the shards whose images are there."""
    check(dataset, options)
    remember(dataset, options)
    yield from sorted(dataset.layer("image").committed())


def shards_to_caption(dataset: Dataset, captioner: Captioner) -> Iterator[int]:
    """Remember how the captions are made, and yield the shards whose images are there."""
    remember_captions(dataset, captioner)
    yield from sorted(dataset.layer("image").committed())


class Stages:
    """Looks up what is missing; reads all commit records of the layers concerned once. For the holder of the lock."""

    def __init__(self, dataset: Dataset, fingerprints: Mapping[str, str]) -> None:
        """`fingerprints`: what each layer that is wanted has where it is made as it should be."""
        self._source = dataset.layer("source")
        self._planned: dict[int, ShardStatus] | None = None
        self._image = dataset.layer("image").statuses(remember=True)
        self._made_from = {name: _made_from(dataset, name, expected) for name, expected in fingerprints.items()}

    def missing(self, shard: int) -> Work | None:
        """The work that a planned shard needs, None where it is complete."""
        image = self._image.get(shard)
        if image is None:
            return Work(shard, self._num_planned(shard), pull=True, layers=tuple(self._made_from))
        # a layer made from an earlier version of the images of this shard is not its layer any more
        layers = tuple(name for name, made in self._made_from.items() if made.get(shard) != image.sha256)
        return Work(shard, image.rows, pull=False, layers=layers) if layers else None

    def _num_planned(self, shard: int) -> int:
        if self._planned is None:
            # what was planned before this run, at once; the others as they come
            self._planned = self._source.statuses()
        found = self._planned.pop(shard, None) or self._source.record(shard)
        return found.rows if found else 0


def _made_from(dataset: Dataset, layer: str, expected: str) -> dict[int, str]:
    """The hash of the images that each shard of a layer was made from, for shards with the expected fingerprint."""
    records = dataset.layer(layer).iter_records(remember=True)
    return {record.shard: record.inputs["image"].sha256 for record in records if record.fingerprint == expected}
