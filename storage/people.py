"""People as a pose layer stores them, and the drawing that ControlNet is trained on: coloured bones on black.

Joints are COCO's 18 in OpenPose's order: nose, neck, right shoulder, elbow, wrist, the same on the left, right hip,
knee, ankle, the same on the left, right and left eye, right and left ear. Points are (x in pixels, y in pixels, score);
NaN where there is none.
"""

import colorsys
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from storage.stored_image import Pixels

Points = NDArray[np.float64]

BODY, LEFT_HAND, RIGHT_HAND, FACE = (
    "pose_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d", "face_keypoints_2d",
)  # fmt: skip
"""Keys of a person, as OpenPose's own JSON names them."""
_NUM_JOINTS: Final = 18
_BONES: Final = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
    (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
_MIRRORED: Final = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)
"""The joint that each one is in a mirror: left and right change places."""
_HUES: Final = tuple(
    tuple(round(255 * part) for part in colorsys.hsv_to_rgb(number / _NUM_JOINTS, 1.0, 1.0))
    for number in range(_NUM_JOINTS)
)
_FINGERS: Final = tuple(
    (0 if step == 0 else first + step - 1, first + step) for first in (1, 5, 9, 13, 17) for step in range(4)
)
_BLUE: Final = (0, 0, 255)
_HALF_WIDTH: Final = 4
_BONE_LIGHT: Final = 0.6


def draw_people(people: Sequence[Mapping[str, Any]], height: int, width: int, *, body: bool = True) -> Pixels:
    """The drawing of stored people, RGB (height, width, 3), with or without their bodies."""
    canvas = np.zeros((height, width, 3), np.uint8)
    for person in people:
        if body and person[BODY] is not None:
            draw_body(canvas, _points(person[BODY]))
        for name in (LEFT_HAND, RIGHT_HAND):
            if person[name] is not None:
                draw_hand(canvas, _points(person[name]))
        if person[FACE] is not None:
            draw_face(canvas, _points(person[FACE]))
    return canvas


def mirrored(people: Sequence[Mapping[str, Any]], width: int) -> list[dict[str, Any]]:
    """The same people in a mirrored image of this width: what was a right arm is a left one."""
    return [
        {
            **person,
            BODY: _in_mirror(person[BODY], width, _MIRRORED),
            LEFT_HAND: _in_mirror(person[RIGHT_HAND], width),
            RIGHT_HAND: _in_mirror(person[LEFT_HAND], width),
            FACE: _in_mirror(person[FACE], width),
        }
        for person in people
    ]


def draw_body(canvas: Pixels, joints: Points) -> None:
    """Draw the joints (18, 3) of a person into the RGB canvas (H, W, 3): bones as ellipses, then joints as dots.

    The same pixels as controlnet_aux's `draw_bodypose`, which works in shares of the canvas.
    """
    height, width = canvas.shape[:2]
    shares = joints[:, :2] / (width, height)
    for (one, other), color in zip(_BONES, _HUES, strict=False):
        ends = shares[[one, other]] * (float(width), float(height))
        if np.isnan(ends).any():
            continue
        (x1, y1), (x2, y2) = ends
        middle = int(np.mean(ends[:, 0])), int(np.mean(ends[:, 1]))
        length, angle = ((y1 - y2) ** 2 + (x1 - x2) ** 2) ** 0.5, math.degrees(math.atan2(y1 - y2, x1 - x2))
        outline = np.asarray(cv2.ellipse2Poly(middle, (int(length / 2), _HALF_WIDTH), int(angle), 0, 360, 1), np.int32)
        cv2.fillConvexPoly(canvas, outline, [int(float(part) * _BONE_LIGHT) for part in color])
    for (x, y), color in zip(shares, _HUES, strict=True):
        if not np.isnan(x):
            cv2.circle(canvas, (int(x * width), int(y * height)), 4, color, thickness=-1)


def draw_face(canvas: Pixels, points: Points) -> None:
    """Draw the points of a face as white dots."""
    for place in _places(canvas, points):
        if place is not None:
            cv2.circle(canvas, place, 3, (255, 255, 255), thickness=-1)


def draw_hand(canvas: Pixels, points: Points) -> None:
    """Draw the points (21, 3) of a hand as blue dots, its bones in twenty hues."""
    there = {index: place for index, place in enumerate(_places(canvas, points)) if place is not None}
    for number, (one, other) in enumerate(_FINGERS):
        if one in there and other in there:
            color = [255 * part for part in colorsys.hsv_to_rgb(number / len(_FINGERS), 1.0, 1.0)]
            cv2.line(canvas, there[one], there[other], color, thickness=2)
    for place in there.values():
        cv2.circle(canvas, place, 4, _BLUE, thickness=-1)


def _points(flat: Sequence[float]) -> Points:
    """x, y, score one after the other, zeros for what was not found."""
    points = np.asarray(flat, np.float64).reshape(-1, 3)
    return np.where((points == 0).all(axis=1, keepdims=True), np.nan, points)


def _in_mirror(flat: Sequence[float] | None, width: int, order: Sequence[int] | None = None) -> list[float] | None:
    if flat is None:
        return None
    points = _points(flat)
    points[:, 0] = width - 1 - points[:, 0]
    there: list[float] = np.nan_to_num(points if order is None else points[list(order)]).ravel().tolist()
    return there


def _places(canvas: Pixels, points: Points) -> Sequence[tuple[int, int] | None]:
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
