"""Images through one annotator to the rows that are stored."""

from collections.abc import Sequence

from controlmill.reasons import RowFailure
from tasks.annotators.base import Annotator
from tasks.images.encode import encode_map
from tasks.images.types import Pixels
from tasks.rows import Map


def make_map(annotator: Annotator, pixels: Pixels, key: str) -> Map:
    """The encoded map of an image with its columns, or the reason why there is none."""
    return make_maps(annotator, [pixels], [key])[0]


def make_maps(annotator: Annotator, images: Sequence[Pixels], keys: Sequence[str]) -> list[Map]:
    """The encoded map of each image, made in batches."""
    return [
        Map(None, {}, made.reason) if isinstance(made, RowFailure) else Map(encode_map(made.map), made.columns)
        for made in annotator(images, keys)
    ]
