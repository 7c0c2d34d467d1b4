"""How the layers of a dataset are made, as fingerprints, and as what `dataset.json` remembers of it.

The image layer cannot be made anew without pulling again, so one dataset has one recipe for it and another is refused. A
layer made from images can: where its recipe changes, it is made again.
"""

import json
from typing import Any

from controlmill.config import ImageOptions, LayerOptions, PullOptions, ShardOptions
from controlmill.errors import DatasetMismatchError
from storage.dataset import Dataset
from storage.fingerprint import fingerprint
from tasks.annotators.base import Annotator
from tasks.annotators.registry import create

IMAGE_VERSION = "1"
"""Raised when the same bytes and options give other pixels or other file bytes."""

_IMAGE_OPTIONS = {*ImageOptions.model_fields, "compute_hash"}


def image_recipe(config: ShardOptions) -> dict[str, Any]:
    """The options that decide about the image layer, as plain JSON values."""
    values: dict[str, Any] = json.loads(config.model_dump_json(include=_IMAGE_OPTIONS))
    return {**values, "encode_quality": config.quality}


def annotators(options: LayerOptions) -> list[Annotator]:
    """The annotators that the options name, not set up.

    Raises:
        ConfigError: there is no such annotator, or one of its options is wrong.
    """
    return [create(name, options.annotator_options.get(name, {}), options.seed) for name in options.annotators]


def image_fingerprint(recipe: dict[str, Any]) -> str:
    """Fingerprint of an image layer with this recipe."""
    return fingerprint("image", IMAGE_VERSION, recipe)


def layer_fingerprint(annotator: Annotator, image: str) -> str:
    """Fingerprint of an annotator's layer over images with the fingerprint `image`."""
    return fingerprint(annotator.name, annotator.version, annotator.recipe(), image)


def remember_images(dataset: Dataset, config: ShardOptions) -> None:
    """Write the recipe of the images into a new dataset, or check that of an old one.

    Raises:
        DatasetMismatchError: images of this dataset were made with another value of an option.
    """
    known = dataset.description().options
    for name, value in image_recipe(config).items():
        old = known.get("image", {}).get(name, value)
        if old != value:
            raise DatasetMismatchError(
                f"{name}: the images of {dataset.uri} were made with {old}, not {value}; use {name}={old}, another "
                "output folder, or incremental_mode=overwrite to pull everything again"
            )
    dataset.describe(options={**known, "image": image_recipe(config)})


def remember_annotators(dataset: Dataset, options: LayerOptions) -> None:
    """Write the annotators of a run beside those of earlier runs, for `retry` and `extend` to make the same layers.

    Raises:
        DatasetMismatchError: layers that this run does not make again were made with another seed.
    """
    known = dataset.description().options
    kept = {name: made for name, made in known.get("annotators", {}).items() if name not in options.annotators}
    if kept and known["seed"] != options.seed:
        raise DatasetMismatchError(
            f"seed: {', '.join(kept)} of {dataset.uri} was made with {known['seed']}, not {options.seed}; use "
            f"seed={known['seed']}, or name all annotators of the dataset to make them again"
        )
    if options.annotators:
        new = {name: options.annotator_options.get(name, {}) for name in options.annotators}
        dataset.describe(options={**known, "annotators": {**kept, **new}, "seed": options.seed})


def remembered(dataset: Dataset, pull: PullOptions) -> ShardOptions:
    """The options that this dataset's shards are made with, pulled as `pull` says: what `retry` works with.

    Raises:
        DatasetMissingError: there is no dataset.
        DatasetMismatchError: nothing was built in it yet.
    """
    known = dataset.description().options
    if "image" not in known:
        raise DatasetMismatchError(f"{dataset.uri}: nothing was built here yet; run `controlmill build` first")
    layers: dict[str, Any] = known.get("annotators", {})
    return ShardOptions.model_validate(
        {
            **{name: getattr(pull, name) for name in PullOptions.model_fields},
            **known["image"],
            "annotators": tuple(layers),
            "annotator_options": layers,
            "seed": known.get("seed", 0),
        }
    )
