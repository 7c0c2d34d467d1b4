"""Whether the layers that `controlmill encode` made can stand for the VAE and the text encoders of a run.

The names, columns and recipes of those layers are here, for the encoder that writes them and the reader that reads.
Layer `latent`: float16 mean and standard deviation of the VAE's posterior (channels, height, width), not scaled.
Layer `text_embedding`: float16 hidden states (tokens, size) and, for SDXL, the pooled projection. Prompts that many
rows of a shard share are stored once: `shared` of a row is k where its embedding is in `shared_hidden` of the shard's
k-th row. The embedding of the empty prompt is in the first row of every shard.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from controlmill.config.training_data import GeometryOptions, TrainingDataOptions
from controlmill.errors import ConfigError
from storage.dataset import Dataset
from storage.filesystem import redact
from storage.record import CommitRecord, ShardStatus

LATENT: Final = "latent"
TEXT: Final = "text_embedding"
LATENT_VERSION: Final = "1"
TEXT_VERSION: Final = "1"
LATENT_BLOBS: Final = ("latent_mean", "latent_std")
FLIPPED_BLOBS: Final = ("flipped_mean", "flipped_std")
EMPTY_BLOBS: Final = ("empty_hidden", "empty_pooled")
SHARED_BLOBS: Final = ("shared_hidden", "shared_pooled")
OWN_BLOBS: Final = ("hidden", "pooled")


def latent_schema(*, flipped: bool) -> pa.Schema:
    """Columns of the layer `latent`; `flipped` with those of the mirrored image."""
    numbers = [pa.field(name, pa.int32()) for name in ("latent_height", "latent_width")]
    names = (*LATENT_BLOBS, *(FLIPPED_BLOBS if flipped else ()))
    blobs = [pa.field(name, pa.binary()) for name in names]
    return pa.schema([pa.field("key", pa.string()), *numbers, *blobs], {"dtype": "float16", "scaled": "no"})


def text_schema(num_tokens: int, hidden_size: int, pooled_size: int | None) -> pa.Schema:
    """Columns of the layer `text_embedding`."""
    fields = [pa.field("key", pa.string()), pa.field("shared", pa.int32())]
    fields += [pa.field(name, pa.binary()) for name in (*EMPTY_BLOBS, *SHARED_BLOBS, *OWN_BLOBS)]
    shape = {"num_tokens": str(num_tokens), "hidden_size": str(hidden_size), "pooled_size": str(pooled_size or 0)}
    return pa.schema(fields, {"dtype": "float16", **shape})


def latent_recipe(base_fingerprint: str, options: GeometryOptions) -> dict[str, Any]:
    """What the latents of an image depend on, as plain JSON values."""
    geometry: dict[str, Any] = {"resolution": options.resolution, "center_crop": options.center_crop}
    if options.enable_bucket:
        names = ("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps")
        geometry |= {"enable_bucket": True, **{name: getattr(options, name) for name in names}}
    return {"base": base_fingerprint, **geometry}


def text_recipe(base_fingerprint: str, caption_source: tuple[str, str]) -> dict[str, Any]:
    """What the text embeddings depend on besides the captions themselves, as plain JSON values."""
    return {"base": base_fingerprint, "captions": ".".join(caption_source)}


def caption_source(dataset: Dataset, caption_column: str | None, image_column: str = "image") -> tuple[str, str]:
    """Layer and column of the prompts.

    Raises:
        ConfigError: there is no such layer or column.
    """
    layers = [layer for layer in dataset.layers() if dataset.layer(layer).committed()]
    if caption_column is None:
        return ("caption", "caption") if "caption" in layers else (image_column, "caption")
    layer, _dot, column = caption_column.partition(".")
    source = (layer, column or "caption")
    if layer not in layers:
        raise ConfigError(
            f"caption_column: {redact(dataset.uri)} has no layer {layer} (it has {', '.join(layers)}); "
            "name LAYER or LAYER.COLUMN"
        )
    schema = dataset.layer(layer).schema(min(dataset.layer(layer).committed()))
    texts = [field.name for field in schema if field.type == pa.string()]
    if source[1] not in texts:
        raise ConfigError(
            f"caption_column: the layer {layer} has no column {source[1]} of text (it has {', '.join(texts)})"
        )
    return source


@dataclass(frozen=True, slots=True)
class Cached:
    """What of the base's work is done already."""

    latents: Mapping[int, ShardStatus] | None
    """The shards of the layer `latent` where all fit, else None."""
    prompts: Mapping[int, ShardStatus] | None
    """Those of the layer `text_embedding`."""
    sentence: str
    """For the user."""


def find_cached(
    dataset: Dataset,
    options: TrainingDataOptions,
    base_fingerprint: str | None,
    used: Mapping[str, Mapping[int, ShardStatus]],
    captions: tuple[str, str],
) -> Cached:
    """What the cached layers are good for in a run with these options; `used` are the layers that are read.

    Raises:
        ConfigError: `cached_layers` requires them, and they do not fit.
    """
    if options.cached_layers == "ignore" or base_fingerprint is None:
        return Cached(None, None, "images and prompts are encoded during training, cached layers are left aside")
    latents, why_latents = _latents(dataset, options, base_fingerprint, used)
    prompts, why_prompts = _prompts(dataset, options, base_fingerprint, used, captions)
    whys = {"images": why_latents, "prompts": why_prompts}
    missing = "; ".join(f"{what}: {why}" for what, why in whys.items() if why)
    if missing and options.cached_layers == "require":
        raise ConfigError(f"cached_layers: require, but {missing}")
    if not missing:
        return Cached(latents, prompts, f"using the cached layers {LATENT} and {TEXT}")
    found = [name for name, layer in ((LATENT, latents), (TEXT, prompts)) if layer is not None]
    using = f"using the cached layer {found[0]}; " if found else ""
    return Cached(latents, prompts, f"{using}encoding during training ({missing})")


_Found = tuple[Mapping[int, ShardStatus] | None, str]


def _latents(
    dataset: Dataset,
    options: TrainingDataOptions,
    base_fingerprint: str,
    used: Mapping[str, Mapping[int, ShardStatus]],
) -> _Found:
    images = used[options.image_column]
    recipe = latent_recipe(base_fingerprint, options)
    found, why = _fitting(dataset, LATENT, recipe, {options.image_column: images})
    if found is None or not options.random_flip:
        return found, why
    schema = dataset.layer(LATENT).schema(min(found))
    if FLIPPED_BLOBS[0] in schema.names:
        return found, ""
    return None, f"random_flip needs {LATENT} of mirrored images too, run `controlmill encode` with --random-flip"


def _prompts(
    dataset: Dataset,
    options: TrainingDataOptions,
    base_fingerprint: str,
    used: Mapping[str, Mapping[int, ShardStatus]],
    captions: tuple[str, str],
) -> _Found:
    names = dict.fromkeys((options.image_column, captions[0]))
    return _fitting(dataset, TEXT, text_recipe(base_fingerprint, captions), {name: used[name] for name in names})


def _fitting(
    dataset: Dataset, name: str, recipe: dict[str, Any], used: Mapping[str, Mapping[int, ShardStatus]]
) -> _Found:
    """The shards of a cached layer, or None and why they do not fit."""
    records = dataset.layer(name).records()
    shards = sorted(next(iter(used.values())))
    if not records:
        return None, f"there is no layer {name}"
    for shard in shards:
        why = _misfit(records.get(shard), recipe, {layer: of[shard].sha256 for layer, of in used.items()})
        if why:
            return None, f"{name}/{shard:05d} {why}"
    return {shard: ShardStatus.of(records[shard]) for shard in shards}, ""


def _misfit(record: CommitRecord | None, recipe: dict[str, Any], inputs: dict[str, str]) -> str:
    if record is None:
        return "is missing"
    made = record.unit.config
    for option, value in recipe.items():
        if made.get(option) != value:
            return "was made with another base" if option == "base" else f"was made with {option} {made.get(option)}"
    if made.get("enable_bucket", False) != recipe.get("enable_bucket", False):
        return "was made with enable_bucket"
    for layer, sha256 in inputs.items():
        if layer not in record.inputs or record.inputs[layer].sha256 != sha256:
            return f"was made from another {layer}"
    return ""
