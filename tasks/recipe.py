"""How the layers of a dataset are made, as fingerprints, and as what `dataset.json` remembers of it.

The image layer cannot be made anew without pulling again, so one dataset has one recipe for it and another is refused.
A layer made from images can: where its recipe changes, it is made again.
"""

import json
from typing import Any

from controlmill.config import BuildConfig, CaptionOptions, ImageOptions, LayerOptions, PullOptions, ShardOptions
from controlmill.errors import ConfigError, DatasetMismatchError
from storage.dataset import Dataset
from storage.filesystem import redact
from storage.fingerprint import fingerprint
from tasks.annotators.base import Annotator
from tasks.annotators.registry import create
from tasks.captioners.base import LAYER as CAPTION
from tasks.captioners.base import Captioner
from tasks.captioners.registry import create as create_captioner
from tasks.weights import find_all_weights

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
    units = {name: create(name, options.annotator_options.get(name, {}), options.seed) for name in options.annotators}
    by_layer: dict[str, str] = {}
    for name, unit in units.items():
        if by_layer.setdefault(unit.name, name) != name:
            raise ConfigError(f"annotators: {by_layer[unit.name]} and {name} both make the layer {unit.name!r}")
    return list(units.values())


def image_fingerprint(recipe: dict[str, Any]) -> str:
    """Fingerprint of an image layer with this recipe."""
    return fingerprint("image", IMAGE_VERSION, recipe)


def layer_fingerprint(annotator: Annotator, image: str) -> str:
    """Fingerprint of an annotator's layer over images with the fingerprint `image`."""
    return fingerprint(annotator.name, annotator.version, annotator.recipe(), image)


def layer_fingerprints(dataset: Dataset, options: LayerOptions, captioner: Captioner | None = None) -> dict[str, str]:
    """The fingerprint that the layer of each annotator, and of the captioner, has in this dataset."""
    image = image_fingerprint(dataset.description().options["image"])
    captions = {} if captioner is None else {CAPTION: caption_fingerprint(captioner, image)}
    return {unit.name: layer_fingerprint(unit, image) for unit in annotators(options)} | captions


def caption_fingerprint(captioner: Captioner, image: str) -> str:
    """Fingerprint of the captions over images with the fingerprint `image`."""
    return fingerprint(captioner.name, captioner.version, captioner.recipe(), image)


def captioner_of(config: BuildConfig) -> Captioner | None:
    """The captioner of a build, None where it has none; all weights of the build are there then.

    Raises:
        ConfigError: there is no such annotator, or one of its options is wrong.
        WeightsError: weights are not there; one error for all that are missing.
        EnvironmentUnusableError: the captioner needs an environment of its own which is not there.
    """
    options = config.caption_options(config.seed)
    find_all_weights(annotators(config), None if options is None else options.model)
    return None if options is None else create_captioner(options)


def remember_captions(dataset: Dataset, captioner: Captioner) -> None:
    """Write down how the captions are made: `retry` makes those of its shards by it.

    Raises:
        DatasetMissingError: there is no dataset.
        DatasetMismatchError: nothing was built in it yet.
    """
    known = _built(dataset)
    made = {"captioner": captioner.name, **captioner.recipe(), "options": captioner.remembered_options()}
    dataset.describe(options={**known, CAPTION: made})


def remembered_captioner(dataset: Dataset) -> Captioner | None:
    """The captioner that this dataset's captions are made with; None where it has none.

    Raises:
        WeightsError: its weights are not where they were.
        DatasetMismatchError: they are others by now.
    """
    known = _built(dataset).get(CAPTION)
    if known is None or "options" not in known:
        return None
    options = CaptionOptions.model_validate(known["options"])
    find_all_weights(annotators(remembered(dataset, PullOptions())), options.model)
    captioner = create_captioner(options)
    if captioner.recipe()["weights"] != known["weights"]:
        raise DatasetMismatchError(
            f"model: {captioner.options.model} is not what captions of {redact(dataset.uri)} were made with; put the "
            "weights back, or make all captions anew with `controlmill caption`"
        )
    return captioner


def _built(dataset: Dataset) -> dict[str, Any]:
    known = dataset.description().options
    if "image" not in known:
        raise DatasetMismatchError(f"{redact(dataset.uri)}: nothing was built here yet; run `controlmill build` first")
    return known


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
    seed = {"seed": options.seed} if options.annotators else {}
    dataset.describe(options={**known, **image, **seed, **_with_annotators(known, options)})


def _with_annotators(known: dict[str, Any], options: LayerOptions) -> dict[str, Any]:
    """The options of all annotators by name, and the layers of those that are files of the user's."""
    layers = {unit.name: name for name, unit in zip(options.annotators, annotators(options), strict=True)}
    made: dict[str, Any] = dict(known.get("annotators", {}))
    files: dict[str, str] = dict(known.get("annotator_files", {}))
    for name in list(made):
        # the same layer under another name: its file was moved
        if layers.get(files.get(name, name), name) != name:
            del made[name]
            files.pop(name, None)
    made |= {name: options.annotator_options.get(name, {}) for name in options.annotators}
    files |= {name: layer for layer, name in layers.items() if name != layer}
    return {"annotators": made, **({"annotator_files": files} if files else {})}


def remembered(dataset: Dataset, pull: PullOptions) -> ShardOptions:
    """The options that this dataset's shards are made with, pulled as `pull` says: what `retry` works with.

    Raises:
        DatasetMissingError: there is no dataset.
        DatasetMismatchError: nothing was built in it yet.
    """
    known = _built(dataset)
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
