"""One image through one annotator to the row that is stored."""

from controlmill.reasons import RowFailure
from tasks.annotators.base import Annotator
from tasks.images.encode import encode_map
from tasks.images.types import Pixels
from tasks.rows import Map


def make_map(annotator: Annotator, pixels: Pixels, key: str) -> Map:
    """The encoded map of an image with its columns, or the reason why there is none."""
    (made,) = annotator([pixels], [key])
    if isinstance(made, RowFailure):
        return Map(None, {}, made.reason)
    return Map(encode_map(made.map), made.columns)
