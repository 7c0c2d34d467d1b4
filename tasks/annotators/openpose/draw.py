"""Joints as controlnet_aux wants them; the drawing is in `storage.people`, which training uses too."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.people import draw_body, draw_face, draw_hand

__all__ = ["draw_body", "draw_face", "draw_hand", "keypoints"]


def keypoints(joints: NDArray[np.float64]) -> list[Any]:
    """Joints as controlnet_aux writes them, in pixels; None where there is none."""
    from controlnet_aux.open_pose.body import Keypoint

    return [None if np.isnan(x) else Keypoint(x=x, y=y) for x, y, _ in joints]
