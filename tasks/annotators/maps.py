"""Images through one annotator to the rows that are stored."""

from collections.abc import Sequence

from controlmill.logs import log
from controlmill.reasons import RowFailure
from tasks.annotators.base import Annotator
from tasks.images.encode import encode_map
from tasks.images.types import Pixels
from tasks.rows import Map


def make_map(annotator: Annotator, pixels: Pixels, key: str) -> Map:
    """The encoded map of an image with its columns, or the reason why there is none."""
    return make_maps(annotator, [pixels], [key])[0]


def make_maps(annotator: Annotator, images: Sequence[Pixels], keys: Sequence[str]) -> list[Map]:
    """The encoded map of each image, made in batches; a failure is logged with the key of its row."""
    maps = []
    for made, key in zip(annotator(images, keys), keys, strict=True):
        if isinstance(made, RowFailure):
            log("annotation_failed", layer=annotator.name, key=key, reason=made.reason, message=made.message)
            maps.append(Map(None, {}, made.reason, made.message))
        else:
            maps.append(Map(encode_map(made.map), made.columns))
    return maps
