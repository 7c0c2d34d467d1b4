"""People as OpenPose's network would see them: coarse maps of joints and limbs, drawn from known skeletons."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Joints = NDArray[np.float64]
"""(18, 2): x, y in shares of the image; NaN where a joint is hidden."""

_STANDING = (
    (0.50, 0.14), (0.50, 0.25), (0.40, 0.25), (0.34, 0.40), (0.31, 0.54), (0.60, 0.25), (0.66, 0.40), (0.69, 0.54),
    (0.43, 0.54), (0.42, 0.73), (0.41, 0.91), (0.57, 0.54), (0.58, 0.73), (0.59, 0.91), (0.47, 0.11), (0.53, 0.11),
    (0.43, 0.13), (0.57, 0.13),
)  # fmt: skip


def standing(left: float = 0.0, top: float = 0.0, size: float = 1.0, seed: int = 0) -> Joints:
    """Somebody who stands in a square of the image, every joint moved a little."""
    moved = np.array(_STANDING) + np.random.default_rng(seed).normal(0, 0.008, (18, 2))
    return moved * size + (left, top)


def draw_maps(
    people: Sequence[Joints], limbs: Sequence[tuple[int, int, int, int]], height: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Limb fields (38, height, width) and joint maps (19, height, width), in cells.

    `limbs` are (joint, joint, channel of x, channel of y).
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    fields = np.zeros((38, height, width), np.float32)
    maps = np.zeros((19, height, width), np.float32)
    for person in people:
        # the middle of cell 0 is half a cell from the edge
        cells = person * (width, height) - 0.5
        for joint, (at_x, at_y) in enumerate(cells):
            if not np.isnan(at_x):
                blob = np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / (2 * 0.9**2))
                maps[joint] = np.maximum(maps[joint], blob)
        for one, other, channel_x, channel_y in limbs:
            start, way = cells[one], cells[other] - cells[one]
            length = float(np.hypot(*way))
            if np.isnan(length) or length == 0:
                continue
            unit = way / length
            along = (x - start[0]) * unit[0] + (y - start[1]) * unit[1]
            aside = np.abs((x - start[0]) * unit[1] - (y - start[1]) * unit[0])
            near = (along > -1) & (along < length + 1) & (aside < 1.2)
            fields[channel_x][near], fields[channel_y][near] = unit
    maps[18] = 1 - maps[:18].max(axis=0)
    return fields, maps
