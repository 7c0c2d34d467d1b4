"""Resizing and smoothing of maps as matrices: both are linear and separable, so that a batch is two multiplications.

OpenPose enlarges coarse maps (stride 8) to the padded input, cuts the padding off, resizes to the image, and smooths.
All of it is `rows @ map @ columns.T` with one matrix per axis: enlarging 57 maps to the image's size, most of which
nobody looks at, is what takes the time in controlnet_aux.
"""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

_CUT_AT_SIGMAS = 4.0
_NUM_KEPT = 32
"""Products that are kept, one for each axis of a size; their factors, of the image's size squared, are not."""


def resizing(num_cells: int, num_pixels: int, *, area: bool) -> Matrix:
    """How OpenCV resizes one axis, (num_pixels, num_cells): by area, or by Lanczos over eight cells."""
    if num_cells == num_pixels:
        return np.eye(num_cells)
    interpolation = cv2.INTER_AREA if area else cv2.INTER_LANCZOS4
    return cv2.resize(np.eye(num_cells), (num_cells, num_pixels), interpolation=interpolation).astype(np.float64)


def smoothing(num_pixels: int, sigma: float) -> Matrix:
    """A Gaussian along one axis, (num_pixels, num_pixels); beyond the edge the axis is mirrored, edge included."""
    radius = int(_CUT_AT_SIGMAS * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    period = 2 * num_pixels
    source = np.mod(np.arange(num_pixels)[:, None] + offsets, period)
    source = np.where(source >= num_pixels, period - 1 - source, source)
    matrix = np.zeros((num_pixels, num_pixels))
    np.add.at(matrix, (np.arange(num_pixels)[:, None], source), weights)
    return matrix


@lru_cache(maxsize=_NUM_KEPT)
def enlarging(num_cells: int, kept: int, num_pixels: int, *, stride: int, area: bool) -> Matrix:
    """From coarse cells to pixels of the image, (num_pixels, num_cells).

    Args:
        num_cells: cells of the coarse map.
        kept: pixels of the enlarged map that are no padding.
        num_pixels: of the image.
        stride: pixels per cell.
        area: whether `kept` is more than `num_pixels`, so that the second step is by area.
    """
    return resizing(kept, num_pixels, area=area) @ resizing(num_cells, num_cells * stride, area=False)[:kept]


@lru_cache(maxsize=_NUM_KEPT)
def enlarging_smoothly(num_cells: int, kept: int, num_pixels: int, *, stride: int, area: bool, sigma: float) -> Matrix:
    """The same, then smoothed."""
    return smoothing(num_pixels, sigma) @ enlarging(num_cells, kept, num_pixels, stride=stride, area=area)
