"""The array that every part of this package takes and gives."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]
"""RGB, uint8, shape (height, width, 3), unless a docstring says otherwise."""


def as_pixels(array: NDArray[Any]) -> Pixels:
    """The same array with the type that OpenCV's stubs forget: uint8 in, uint8 out."""
    return np.asarray(array, dtype=np.uint8)
