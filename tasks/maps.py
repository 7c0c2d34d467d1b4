"""From one image's pixels to one annotator's encoded map."""

import numpy as np

from controlmill.reasons import RowFailure
from tasks.annotators.base import Annotator
from tasks.images.encode import encode_map
from tasks.rows import Map


def make_map(unit: Annotator, pixels: np.ndarray, key: str) -> Map:
    """The map of one RGB image (height x width x 3, uint8), or the reason why there is none."""
    made = unit([pixels], [key])[0]
    if isinstance(made, RowFailure):
        return Map(None, {}, made.reason)
    return Map(encode_map(made.map), made.columns)
