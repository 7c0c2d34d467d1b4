"""From joints to people: limbs between joints that the fields speak for, taken greedily, then limbs put together.

Cao et al. 2017, section 3.3, in the form that ControlNet's annotator gave it (controlnet_aux, open_pose/body.py).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.annotators.openpose.body import NUM_JOINTS, Field

# (joint, joint, channel of x, channel of y), in the order in which limbs are put together; the last two only attach
LIMBS: Final = (
    (1, 2, 12, 13), (1, 5, 20, 21), (2, 3, 14, 15), (3, 4, 16, 17), (5, 6, 22, 23), (6, 7, 24, 25), (1, 8, 0, 1),
    (8, 9, 2, 3), (9, 10, 4, 5), (1, 11, 6, 7), (11, 12, 8, 9), (12, 13, 10, 11), (1, 0, 28, 29), (0, 14, 30, 31),
    (14, 16, 34, 35), (0, 15, 32, 33), (15, 17, 36, 37), (2, 16, 18, 19), (5, 17, 26, 27),
)  # fmt: skip
_NUM_STARTING = 17
_NUM_SAMPLES = 10
_LEAST_ALONG = 0.05
_LEAST_SHARE = 0.8
_LEAST_JOINTS = 4
_LEAST_MEAN = 0.4
_MISSING = -1


@dataclass(frozen=True, slots=True)
class Person:
    """The joints of one person."""

    joints: NDArray[np.float64]
    """(18, 3): x, y in pixels and the score; NaN where a joint was not found."""
    score: float
    """Sum of the scores of joints and limbs, over the number of joints."""


@dataclass(slots=True)
class _Group:
    """Joints that belong together: number of the peak of each joint or -1, as they were counted."""

    peaks: list[int]
    score: float
    num_joints: int


def find_people(field: Field) -> list[Person]:
    """The people in an image."""
    scores = np.concatenate([peaks[:, 2] for peaks in field.peaks])
    starts = np.cumsum([0, *(len(peaks) for peaks in field.peaks)])
    groups: list[_Group] = []
    for number, (first, second, *channels) in enumerate(LIMBS):
        for one, other, strength in _connections(field, first, second, channels):
            ends = (int(starts[first]) + one, int(starts[second]) + other)
            _attach(groups, (first, second), ends, strength, scores, may_start=number < _NUM_STARTING)
    points = np.concatenate(field.peaks)
    return [
        Person(_joints(group, points), group.score / group.num_joints)
        for group in groups
        if group.num_joints >= _LEAST_JOINTS and group.score / group.num_joints >= _LEAST_MEAN
    ]


def _connections(field: Field, first: int, second: int, channels: list[int]) -> list[tuple[int, int, float]]:
    """Limbs between joints of two kinds: which of the first, which of the second, how strong; strongest first."""
    starts, ends = field.peaks[first], field.peaks[second]
    if not len(starts) or not len(ends):
        return []
    one, other = (index.ravel() for index in np.indices((len(starts), len(ends))))
    way = ends[other, :2] - starts[one, :2]
    length = np.maximum(0.001, np.hypot(way[:, 0], way[:, 1]))
    way = way / length[:, None]
    x, y = (
        np.rint(np.linspace(starts[one, axis], ends[other, axis], _NUM_SAMPLES, axis=1)).astype(np.intp)
        for axis in range(2)
    )
    across, down = (field.at(channel, x.ravel(), y.ravel()).reshape(x.shape) for channel in channels)
    along = across * way[:, :1] + down * way[:, 1:]
    height = field.rows.shape[0]
    # limbs longer than half of the image's height are held to be less likely
    strength = np.mean(along, axis=1) + np.minimum(0.5 * height / length - 1, 0)
    supported = np.count_nonzero(along > _LEAST_ALONG, axis=1) > _LEAST_SHARE * _NUM_SAMPLES
    likely = supported & (strength > 0)
    candidates = np.flatnonzero(likely)
    taken: list[tuple[int, int, float]] = []
    used_one, used_other = set[int](), set[int]()
    for index in candidates[np.argsort(-strength[candidates], kind="stable")]:
        pair = int(one[index]), int(other[index])
        if pair[0] not in used_one and pair[1] not in used_other:
            used_one.add(pair[0])
            used_other.add(pair[1])
            taken.append((*pair, float(strength[index])))
    return taken


def _attach(
    groups: list[_Group],
    joints: tuple[int, int],
    ends: tuple[int, int],
    strength: float,
    scores: NDArray[np.float64],
    *,
    may_start: bool,
) -> None:
    """Put a limb to the people it touches; a limb that touches nobody starts somebody new."""
    first, second = joints
    touched = [group for group in groups if group.peaks[first] == ends[0] or group.peaks[second] == ends[1]]
    if not touched:
        if may_start:
            peaks = [_MISSING] * NUM_JOINTS
            peaks[first], peaks[second] = ends
            groups.append(_Group(peaks, float(scores[list(ends)].sum()) + strength, 2))
        return
    group = touched[0]
    if len(touched) > 1 and not _overlap(group, touched[1]):
        group.peaks = [max(pair) for pair in zip(group.peaks, touched[1].peaks, strict=True)]
        group.score += touched[1].score + strength
        group.num_joints += touched[1].num_joints
        groups[:] = [kept for kept in groups if kept is not touched[1]]
    elif len(touched) > 1 or group.peaks[second] != ends[1]:
        group.peaks[second] = ends[1]
        group.score += float(scores[ends[1]]) + strength
        group.num_joints += 1


def _overlap(one: _Group, other: _Group) -> bool:
    return any(a >= 0 and b >= 0 for a, b in zip(one.peaks, other.peaks, strict=True))


def _joints(group: _Group, points: NDArray[np.float64]) -> NDArray[np.float64]:
    joints = np.full((NUM_JOINTS, 3), np.nan)
    for joint, peak in enumerate(group.peaks):
        if peak != _MISSING:
            joints[joint] = points[peak]
    return joints
