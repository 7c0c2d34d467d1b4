"""Shrinking by area averaging, several times faster than OpenCV's INTER_AREA, and the same to the last bit but one.

INTER_AREA has vector code for halves only; every other ratio runs through a scalar loop (640x480 to 512x384: 1.8 ms, as
much as decoding the JPEG). Here each axis is shrunk by itself. Along the rows of an array, num_in:num_out = p:q in
lowest terms, the weights of output row i are those of row i + q: so row j of every period is a weighted sum of a few
strided views of the input, one `cv2.addWeighted` for all periods, which is vector code on long rows. Columns are rows
after `cv2.transpose`. Where q is large, the rows are sorted by the phase of their window instead, in 64 classes.

Difference to INTER_AREA, which rounds once where this rounds per step: at most 1 of 255 and 53 to 56 dB on photographs
where q is at most 64, at most a few and above 53 dB else (benchmarks/decode.py measures it).
"""

from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.images.types import Pixels, as_pixels

_MAX_NUM_PHASES: Final = 64


@dataclass(frozen=True, slots=True)
class _Phase:
    """One way in which windows lie over the input rows: the first row of its first window, and the weights."""

    first: int
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Classes:
    """Windows sorted by phase: class i is rows ends[i-1]:ends[i] of the sorted output."""

    rows: tuple[NDArray[np.intp], ...]
    """Input row of tap k, for every output row in sorted order."""
    ends: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...]
    unsort: NDArray[np.intp]


def shrink(pixels: Pixels, width: int, height: int) -> Pixels:
    """Average (H, W, 3) pixels over areas, to (height, width, 3); neither side may grow."""
    narrow = _shrink_rows(pixels, height)
    if width != pixels.shape[1]:
        narrow = as_pixels(cv2.transpose(_shrink_rows(as_pixels(cv2.transpose(narrow)), width)))
    return narrow


def _shrink_rows(pixels: Pixels, num_out: int) -> Pixels:
    num_in = pixels.shape[0]
    if num_in == num_out:
        return pixels
    rows = pixels.reshape(num_in, -1)
    few = num_out // gcd(num_in, num_out) <= _MAX_NUM_PHASES
    shrunk = _by_phase(rows, num_out) if few else _by_class(rows, num_out)
    return shrunk.reshape(num_out, *pixels.shape[1:])


def _by_phase(rows: Pixels, num_out: int) -> Pixels:
    phases, period = _phases(rows.shape[0], num_out)
    out = np.empty((num_out, rows.shape[1]), np.uint8)
    for number, phase in enumerate(phases):
        taps = [rows[phase.first + tap :: period] for tap in range(len(phase.weights))]
        _mix(taps, phase.weights, out[number :: len(phases)])
    return out


def _by_class(rows: Pixels, num_out: int) -> Pixels:
    classes = _classes(rows.shape[0], num_out)
    gathered = [np.take(rows, indices, axis=0) for indices in classes.rows]
    out = np.empty((num_out, rows.shape[1]), np.uint8)
    start = 0
    for end, weights in zip(classes.ends, classes.weights, strict=True):
        _mix([taps[start:end] for taps in gathered[: len(weights)]], weights, out[start:end])
        start = end
    return np.take(out, classes.unsort, axis=0)


def _mix(taps: list[Pixels], weights: tuple[float, ...], out: Pixels) -> None:
    """Weighted mean of equally shaped rows into `out`, rounded after each step; the outer, lighter taps come first."""
    if len(taps) == 1:
        out[:] = taps[0]
        return
    mean, weight = taps[0], weights[0]
    for tap in (len(taps) - 1, *range(1, len(taps) - 1)):
        total = weight + weights[tap]
        last = tap == len(taps) - 2 or len(taps) == 2
        target = out if last else None
        mean = as_pixels(cv2.addWeighted(mean, weight / total, taps[tap], weights[tap] / total, 0, dst=target))
        weight = total


@lru_cache(maxsize=512)
def _phases(num_in: int, num_out: int) -> tuple[tuple[_Phase, ...], int]:
    """The phases of one period, and how many input rows a period has."""
    common = gcd(num_in, num_out)
    period, num_phases = num_in // common, num_out // common
    phases = []
    # in units of 1/num_phases of an input row, all bounds are whole numbers
    for number in range(num_phases):
        start, end = number * period, (number + 1) * period
        touched = range(start // num_phases, (end - 1) // num_phases + 1)
        overlaps = (min(end, (row + 1) * num_phases) - max(start, row * num_phases) for row in touched)
        phases.append(_Phase(touched.start, tuple(overlap / period for overlap in overlaps)))
    return tuple(phases), period


@lru_cache(maxsize=512)
def _classes(num_in: int, num_out: int) -> _Classes:
    ratio = num_in / num_out
    starts = np.arange(num_out) * num_in
    first = starts // num_out
    number = (starts % num_out) * _MAX_NUM_PHASES // num_out
    order = np.argsort(number, kind="stable")
    ends, weights = [], []
    for phase in np.unique(number):
        start = (float(phase) + 0.5) / _MAX_NUM_PHASES
        num_taps = int(np.ceil(start + ratio))
        overlaps = (min(start + ratio, tap + 1) - max(start, tap) for tap in range(num_taps))
        weights.append(tuple(overlap / ratio for overlap in overlaps))
        ends.append(int(np.searchsorted(number[order], phase, side="right")))
    # a window that is moved to the middle of its class may look one row past the end, with next to no weight
    rows = tuple(np.minimum(first[order] + tap, num_in - 1) for tap in range(max(map(len, weights))))
    return _Classes(rows, tuple(ends), tuple(weights), np.argsort(order))
