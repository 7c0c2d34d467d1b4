"""How the layers of a dataset are made, as fingerprints, and as what `dataset.json` remembers of it.

The image layer cannot be made anew without pulling again, so one dataset has one recipe for it and another is refused.
A layer made from images can: where its recipe changes, it is made again.
"""

import json
from typing import Any

from controlmill.config import ImageOptions, LayerOptions, PullOptions, ShardOptions
from controlmill.errors import DatasetMismatchError
from storage.dataset import Dataset
from storage.filesystem import redact
from storage.fingerprint import fingerprint
from tasks.annotators.base import Annotator
from tasks.annotators.registry import create
from tasks.annotators.weights import find_all_weights
from tasks.captioners.base import LAYER as CAPTION
from tasks.captioners.base import Captioner

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


def layer_fingerprints(dataset: Dataset, options: LayerOptions) -> dict[str, str]:
    """The fingerprint that each layer of the options' annotators has in this dataset."""
    image = image_fingerprint(dataset.description().options["image"])
    return {unit.name: layer_fingerprint(unit, image) for unit in annotators(options)}


def caption_fingerprint(captioner: Captioner, image: str) -> str:
    """Fingerprint of the captions over images with the fingerprint `image`."""
    return fingerprint(captioner.name, captioner.version, captioner.recipe(), image)


def remember_captions(dataset: Dataset, captioner: Captioner) -> str:
    """Write down how the captions are made, and return the fingerprint that they have in this dataset.

    Raises:
        DatasetMissingError: there is no dataset.
        DatasetMismatchError: nothing was built in it yet.
    """
    known = dataset.description().options
    if "image" not in known:
        raise DatasetMismatchError(f"{redact(dataset.uri)}: nothing was built here yet; run `controlmill build` first")
    dataset.describe(options={**known, CAPTION: {"captioner": captioner.name, **captioner.recipe()}})
    return caption_fingerprint(captioner, image_fingerprint(known["image"]))


def check(dataset: Dataset, options: LayerOptions) -> None:
    """Whether a run with these options fits the dataset; a place without a dataset fits everything. Writes nothing.

    Raises:
        ConfigError: there is no such annotator, or one of its options is wrong.
        WeightsMissingError: the weights of an annotator are not here and cannot be had.
        DatasetMismatchError: images, or layers that this run does not make again, were made with another option.
    """
    find_all_weights(annotators(options))
    description = dataset.read_description()
    known = description.options if description else {}
    if isinstance(options, ShardOptions) and "image" in known:
        _check_images(dataset, known["image"], image_recipe(options))
    kept = known.get("annotators", {}).keys() - set(options.annotators)
    if kept and known["seed"] != options.seed:
        raise DatasetMismatchError(
            f"seed: {', '.join(sorted(kept))} of {redact(dataset.uri)} was made with {known['seed']}, not "
            f"{options.seed}; use seed={known['seed']}, or name all annotators of the dataset to make them again"
        )


def _check_images(dataset: Dataset, known: dict[str, Any], recipe: dict[str, Any]) -> None:
    for name, value in recipe.items():
        old = known.get(name, value)
        if old != value and any(True for _ in dataset.layer("image").iter_records()):
            raise DatasetMismatchError(
                f"{name}: the images of {redact(dataset.uri)} were made with {old}, not {value}; use {name}={old}, "
                "another output folder, or incremental_mode=overwrite to pull everything again"
            )


def remember(dataset: Dataset, options: LayerOptions) -> None:
    """Write down what this run makes, beside what earlier runs made: `retry` and later runs go by it."""
    known = dataset.description().options
    image = {"image": image_recipe(options)} if isinstance(options, ShardOptions) else {}
    new = {name: options.annotator_options.get(name, {}) for name in options.annotators}
    made = {**known.get("annotators", {}), **new}
    seed = {"seed": options.seed} if options.annotators else {}
    dataset.describe(options={**known, **image, **seed, "annotators": made})


def remembered(dataset: Dataset, pull: PullOptions) -> ShardOptions:
    """The options that this dataset's shards are made with, pulled as `pull` says: what `retry` works with.

    Raises:
        DatasetMissingError: there is no dataset.
        DatasetMismatchError: nothing was built in it yet.
    """
    known = dataset.description().options
    if "image" not in known:
        raise DatasetMismatchError(f"{redact(dataset.uri)}: nothing was built here yet; run `controlmill build` first")
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
