"""Which work a shard still needs: everything from pulling on, some layers from its stored images, or nothing."""

from collections.abc import Iterator
from dataclasses import dataclass

from controlmill.config import BuildConfig, LayerOptions
from storage.dataset import Dataset
from tasks.recipe import annotators, image_fingerprint, layer_fingerprint, remember_annotators, remember_images
from tasks.sources.plan import plan, start_again


@dataclass(frozen=True, slots=True)
class Work:
    """What one shard needs."""

    shard: int
    num_rows: int
    pull: bool
    """Pull it, with all annotators; else make `layers` from its stored images."""
    layers: tuple[str, ...]


def planned_shards(dataset: Dataset, config: BuildConfig) -> Iterator[int]:
    """Check that the dataset fits the configuration, then plan its source; yields each shard once it is planned.

    Raises:
        ConfigError, DatasetMismatchError, SourceError: before anything is written.
    """
    annotators(config)
    if config.incremental_mode == "overwrite":
        start_again(dataset)
    Dataset.create(dataset.uri)
    remember_images(dataset, config)
    remember_annotators(dataset, config)
    yield from plan(dataset, config)


class Stages:
    """Looks up what is missing; reads all commit records of the layers concerned once."""

    def __init__(self, dataset: Dataset, options: LayerOptions) -> None:
        image = image_fingerprint(dataset.description().options["image"])
        self._source = dataset.layer("source")
        self._image = dataset.layer("image").statuses()
        self._layers = {
            unit.name: (layer_fingerprint(unit, image), dataset.layer(unit.name).iter_records())
            for unit in annotators(options)
        }
        self._done: dict[str, dict[int, str]] = {}
        for name, (expected, records) in self._layers.items():
            self._done[name] = {
                record.shard: record.inputs["image"].sha256 for record in records if record.fingerprint == expected
            }

    def missing(self, shard: int) -> Work | None:
        """The work that a planned shard needs, None where it is complete."""
        image = self._image.get(shard)
        if image is None:
            return Work(shard, self._num_planned(shard), pull=True, layers=tuple(self._done))
        # a layer made from an earlier version of the images of this shard is not its layer any more
        layers = tuple(name for name, done in self._done.items() if done.get(shard) != image.sha256)
        return Work(shard, image.rows, pull=False, layers=layers) if layers else None

    def _num_planned(self, shard: int) -> int:
        record = self._source.record(shard)
        return record.rows if record else 0


def shards_with_images(dataset: Dataset, options: LayerOptions) -> Iterator[int]:
    """Check the annotators, remember them, and yield the shards whose images are there."""
    annotators(options)
    remember_annotators(dataset, options)
    yield from sorted(dataset.layer("image").committed())
