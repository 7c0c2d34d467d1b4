"""The layer `latent`: mean and standard deviation of the VAE's posterior of what training would cut out of each image.

Shapes: B images, C channels, H W height and width of latents; pixels are 8 times as high and wide.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch

from controlmill.config.training_data import PIXELS_PER_LATENT, EncodeOptions
from controlmill.errors import CorruptShardError
from storage.dataset import Dataset
from storage.stored_image import Pixels, decode_stored
from storage.writer import ShardWriter
from training.base_model import BaseModel
from training.batch import to_blob, to_unit_range
from training.reader.cache import FLIPPED_BLOBS, LATENT, LATENT_BLOBS, latent_schema
from training.reader.geometry import Plan, View, bucket_sizes, center_view, cut, plan_of

_ROWS_PER_READ: Final = 64


def write_latents(
    dataset: Dataset, shard: int, base: BaseModel, options: EncodeOptions, report: Callable[[int], None]
) -> ShardWriter:
    """Write the layer of a shard; the caller commits it, or leaves nothing behind.

    Raises:
        CorruptShardError: an image cannot be decoded.
    """
    schema = latent_schema(flipped=options.random_flip)
    writer = ShardWriter(dataset, LATENT, shard, schema)
    try:
        num_done = 0
        for stored in dataset.layer("image").iter_batches(shard, ["key", "width", "height", "image"], _ROWS_PER_READ):
            rows = stored.to_pylist()
            writer.write(pa.RecordBatch.from_pylist(list(_encoded(rows, shard, base, options)), schema))
            num_done += len(rows)
            report(num_done)
    except BaseException:
        writer.abort()
        raise
    return writer


def whole_view(plan: Plan) -> View:
    """All of a resized image, but for what is left over of a multiple of 8 pixels at right and bottom."""
    width, height = (side // PIXELS_PER_LATENT * PIXELS_PER_LATENT for side in plan.resized)
    return View(plan.resized, (width, height), left=0, top=0, flipped=False)


def _encoded(
    rows: list[dict[str, Any]], shard: int, base: BaseModel, options: EncodeOptions
) -> Iterator[dict[str, Any]]:
    """The rows of the layer, in order; images of one size go through the network together."""
    buckets = bucket_sizes(options)
    plans = [plan_of(row["width"], row["height"], buckets) for row in rows]
    views = [center_view(plan) if options.center_crop else whole_view(plan) for plan in plans]
    made: list[dict[str, Any]] = [{} for _ in rows]
    for size in dict.fromkeys(view.target for view in views):
        members = [number for number, view in enumerate(views) if view.target == size]
        for start in range(0, len(members), options.batch_size):
            some = members[start : start + options.batch_size]
            pixels = [_decoded(rows[number], shard) for number in some]
            seen = [views[number] for number in some]
            encoded = _encode(pixels, seen, base, flipped=options.random_flip)
            for number, columns in zip(some, encoded, strict=True):
                made[number] = columns
    for row, view, columns in zip(rows, views, made, strict=True):
        width, height = (side // PIXELS_PER_LATENT for side in view.target)
        yield {"key": row["key"], "latent_height": height, "latent_width": width, **columns}


def _encode(pixels: list[Pixels], views: list[View], base: BaseModel, *, flipped: bool) -> list[dict[str, bytes]]:
    """The columns of images of one size."""
    columns: list[dict[str, bytes]] = [{} for _ in pixels]
    for names, mirror in ((LATENT_BLOBS, False), *(((FLIPPED_BLOBS, True),) if flipped else ())):
        seen = [cut(one, replace(view, flipped=mirror)) for one, view in zip(pixels, views, strict=True)]
        for row, blobs in zip(columns, _moments(base, seen), strict=True):
            row.update(zip(names, blobs, strict=True))
    return columns


def _decoded(row: dict[str, Any], shard: int) -> Pixels:
    try:
        pixels = decode_stored(row["image"]["bytes"])
    except ValueError as error:
        raise CorruptShardError(f"image/{shard:05d}, row {row['key']}: {error}") from error
    if (pixels.shape[1], pixels.shape[0]) != (row["width"], row["height"]):
        raise CorruptShardError(f"image/{shard:05d}, row {row['key']}: the image has not the size that its row says")
    return pixels


def _moments(base: BaseModel, pixels: list[Pixels]) -> Iterator[tuple[bytes, bytes]]:
    """Mean and standard deviation of each image, float16."""
    mean_BCHW, std_BCHW = base.encode_pixels(to_unit_range(torch.from_numpy(np.stack(pixels))))
    for mean_CHW, std_CHW in zip(mean_BCHW, std_BCHW, strict=True):
        yield to_blob(mean_CHW), to_blob(std_CHW)
