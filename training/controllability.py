"""How well generated images obey their hint, once the dataset's own annotator has read them back.

Scores follow the evaluation of ControlNet++ (ECCV 2024) as its code computes them, for one row: F1 of edges,
multi-scale SSIM of soft edges and lines, RMSE of depth, mIoU of classes; besides, the angle between normals, and for
poses the object keypoint similarity of COCO. Maps are uint8 (H, W), or (H, W, 3) of normals, as annotators make them.
No torch: what generates the images calls this with arrays.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.uint8]

_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_SSIM_SIGMA = 1.5
# COCO's spread of each joint, in OpenPose's order of 18; the neck is not a joint of COCO
_JOINT_SPREADS = (
    0.026, None, 0.079, 0.072, 0.062, 0.079, 0.072, 0.062, 0.107, 0.087, 0.089, 0.107, 0.087, 0.089, 0.025, 0.025,
    0.035, 0.035,
)  # fmt: skip
# COCO divides by the area of a person; that of the box around the joints is larger by about this factor
_AREA_OF_BOX = 0.53
# standard errors by which the rows must have gained for samples to confirm what the gain says
_MOST_DOUBT = 3.0


@dataclass(frozen=True, slots=True)
class Score:
    """How a condition is scored."""

    name: str
    of: Callable[[Any, Any], float]
    """(what was read back, what was wanted) to a number."""
    perfect: float
    """The number where both are equal."""


def f1(read: Map, wanted: Map) -> float:
    """F1 of the pixels that are set, without tolerance; 1 where neither map has any."""
    both = int(np.count_nonzero((read > 0) & (wanted > 0)))
    total = int(np.count_nonzero(read)) + int(np.count_nonzero(wanted))
    return 2 * both / total if total else 1.0


def rmse(read: Map, wanted: Map) -> float:
    """Root mean square difference in 0 … 255, each map divided by its own maximum first."""
    scaled = [255.0 * one / max(1, int(one.max())) for one in (read.astype(np.float64), wanted.astype(np.float64))]
    return float(np.sqrt(np.mean((scaled[0] - scaled[1]) ** 2)))


def mean_iou(read: Map, wanted: Map) -> float:
    """Mean over the classes of either map of intersection by union; class 0 counts like the others."""
    classes = np.union1d(read, wanted)
    return fmean(
        float(np.count_nonzero((read == one) & (wanted == one)) / np.count_nonzero((read == one) | (wanted == one)))
        for one in classes
    )


def mean_angle(read: Map, wanted: Map) -> float:
    """Mean angle in degrees between normals, from RGB as (n + 1) / 2."""
    one, other = (side.astype(np.float64) / 127.5 - 1 for side in (read, wanted))
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    cosines = (one * other).sum(axis=-1) / np.maximum(lengths, 1e-9)
    return float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).mean())


def ms_ssim(read: Map, wanted: Map) -> float:
    """Multi-scale SSIM (Wang 2003) with as many of its five scales as the maps are large enough for; 0 at the least."""
    one, other = read.astype(np.float64) / 255, wanted.astype(np.float64) / 255
    num_scales = max(1, min(len(_SSIM_WEIGHTS), int(math.log2(max(2, min(one.shape) / 11))) + 1))
    weights = np.array(_SSIM_WEIGHTS[:num_scales]) / sum(_SSIM_WEIGHTS[:num_scales])
    product = 1.0
    for number, weight in enumerate(weights):
        structure, whole = _ssim(one, other)
        product *= max(0.0, whole if number == num_scales - 1 else structure) ** float(weight)
        one, other = _halved(one), _halved(other)
    return product


def _ssim(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float]:
    """Contrast and structure, and SSIM, both means over the map."""
    from scipy.ndimage import gaussian_filter

    def blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
        smooth: NDArray[np.float64] = gaussian_filter(values, _SSIM_SIGMA, truncate=3.5)
        return smooth

    c1, c2 = 0.01**2, 0.03**2
    mean_one, mean_other = blurred(one), blurred(other)
    variances = blurred(one * one) - mean_one**2 + blurred(other * other) - mean_other**2
    covariance = blurred(one * other) - mean_one * mean_other
    structure = (2 * covariance + c2) / (variances + c2)
    luminance = (2 * mean_one * mean_other + c1) / (mean_one**2 + mean_other**2 + c1)
    return float(structure.mean()), float((structure * luminance).mean())


def _halved(values: NDArray[np.float64]) -> NDArray[np.float64]:
    height, width = (side // 2 * 2 for side in values.shape)
    if not height or not width:
        return values
    blocks = values[:height, :width].reshape(height // 2, 2, width // 2, 2)
    means: NDArray[np.float64] = blocks.mean(axis=(1, 3))
    return means


def pose_similarity(read: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]) -> float:
    """Object keypoint similarity, people matched one to one at best; a person too few or too many counts as 0.

    Args:
        read: people with `pose_keypoints_2d`, x, y and confidence of 18 joints after each other, in pixels.
        wanted: the same.
    """
    if not read or not wanted:
        return 1.0 if len(read) == len(wanted) else 0.0
    from scipy.optimize import linear_sum_assignment

    table = np.array([[_similarity(_joints(one), _joints(other)) for other in read] for one in wanted])
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum()) / max(len(read), len(wanted))


def _joints(person: Mapping[str, Any]) -> NDArray[np.float64]:
    return np.asarray(person["pose_keypoints_2d"], dtype=np.float64).reshape(-1, 3)


def _similarity(wanted: NDArray[np.float64], read: NDArray[np.float64]) -> float:
    spreads = np.array([spread or 0.0 for spread in _JOINT_SPREADS])
    seen = (wanted[:, 2] > 0) & (spreads > 0)
    if not seen.any():
        return 0.0
    sides = np.ptp(wanted[wanted[:, 2] > 0, :2], axis=0)
    area = max(1.0, float(sides.prod()) * _AREA_OF_BOX)
    squares = ((wanted[:, :2] - read[:, :2]) ** 2).sum(axis=1)
    exponents = squares[seen] / (2 * area * (2 * spreads[seen]) ** 2)
    return float(np.where(read[seen, 2] > 0, np.exp(-exponents), 0.0).mean())


_F1, _SSIM, _ANGLE = Score("f1", f1, 1.0), Score("ms_ssim", ms_ssim, 1.0), Score("mean_angle", mean_angle, 0.0)
SCORES: dict[str, Score] = {
    "canny": _F1,
    "mlsd": _F1,
    "scribble": _F1,
    "hed": _SSIM,
    "lineart": _SSIM,
    "lineart_standard": _SSIM,
    "normal_bae": _ANGLE,
    "normal_midas": _ANGLE,
    "midas": Score("rmse", rmse, 0.0),
    "segmentation": Score("miou", mean_iou, 1.0),
    "openpose": Score("oks", pose_similarity, 1.0),
}


def lift(controlled: float, uncontrolled: float, real: float) -> float:
    """Where a score lies between that of samples without control (0) and that of the real images (1).

    It compares conditions whose scores have different units, and scores of which less is better.
    """
    way = real - uncontrolled
    return (controlled - uncontrolled) / way if way else 0.0


def confirmed(now: Sequence[float], before: Sequence[float]) -> bool:
    """Whether samples follow: paired over rows, the preference for the own hint has grown by over 3 standard errors.

    Args:
        now: per row, the score against its own hint less that against another row's (negated where less is better).
        before: the same rows at update 0, same noise.
    """
    grown = [one - other for one, other in zip(now, before, strict=True)]
    if len(grown) < 2:
        return False
    return fmean(grown) > _MOST_DOUBT * stdev(grown) / math.sqrt(len(grown))
