"""The drawing of people that ControlNet is trained on: coloured bones and joints on black."""

import colorsys
from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.images.types import Pixels

_FINGERS: Final = tuple(
    (0 if step == 0 else first + step - 1, first + step) for first in (1, 5, 9, 13, 17) for step in range(4)
)
_BLUE = (0, 0, 255)


def draw_body(canvas: Pixels, joints: NDArray[np.float64]) -> None:
    """Draw the joints (18, 3) of a person into the RGB canvas (H, W, 3)."""
    from controlnet_aux.open_pose.util import draw_bodypose

    draw_bodypose(canvas, keypoints(joints, canvas))


def draw_face(canvas: Pixels, points: NDArray[np.float64]) -> None:
    """Draw the points of a face as white dots."""
    for place in _places(canvas, points):
        if place is not None:
            cv2.circle(canvas, place, 3, (255, 255, 255), thickness=-1)


def draw_hand(canvas: Pixels, points: NDArray[np.float64]) -> None:
    """Draw the points (21, 3) of a hand as blue dots, its bones in twenty hues.

    controlnet_aux's own takes the hues from matplotlib, which it does not depend on.
    """
    there = {index: place for index, place in enumerate(_places(canvas, points)) if place is not None}
    for number, (one, other) in enumerate(_FINGERS):
        if one in there and other in there:
            color = [255 * part for part in colorsys.hsv_to_rgb(number / len(_FINGERS), 1.0, 1.0)]
            cv2.line(canvas, there[one], there[other], color, thickness=2)
    for place in there.values():
        cv2.circle(canvas, place, 4, _BLUE, thickness=-1)


def keypoints(joints: NDArray[np.float64], canvas: Pixels | None = None) -> list[Any]:
    """Joints as controlnet_aux writes them: in shares of the canvas where one is given, None where there is none."""
    from controlnet_aux.open_pose.body import Keypoint

    height, width = (1.0, 1.0) if canvas is None else canvas.shape[:2]
    return [None if np.isnan(x) else Keypoint(x=x / width, y=y / height) for x, y, _ in joints]


def _places(canvas: Pixels, points: NDArray[np.float64]) -> Sequence[tuple[int, int] | None]:
    """Pixels of the points; those in the first row or column count as missing, as they do for controlnet_aux."""
    height, width = canvas.shape[:2]
    found: list[tuple[int, int] | None] = []
    for x, y, _ in points:
        if np.isnan(x):
            found.append(None)
            continue
        # single precision shares of the canvas and back, so that the rounding is theirs
        place = int(np.float32(x) / np.float32(width) * width), int(np.float32(y) / np.float32(height) * height)
        found.append(place if min(place) > 0 else None)
    return found
