"""The shape of a rise: where its 10, 50 and 90 % are, with an interval, and whether it was sudden.

The curve is the control gain: of gain, log ratio and wrong / right - 1 its midpoint is nearest to that of samples.
R = (s50 - s10) / s50 compares the rise to the midpoint with the whole way to it; rho = (s90 - s10) / s50 has the tail.
A step has both near 0; a straight line from update 0 has R = 0.8 and rho = 1.6.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from controlmill.config.convergence import ConvergenceOptions
from training.gain import Evaluation, usable_rows

Label = Literal["sudden", "gradual", "indeterminate"]
Point = tuple[int, float]
"""An update and the control gain at it."""

_NUM_RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class Transition:
    """Where a curve rises; updates, interpolated between evaluations. None where it does not cross that level."""

    s10: float | None
    s50: float
    s90: float | None
    rise_ratio: float | None
    """R = (s50 - s10) / s50."""
    width_ratio: float | None
    """rho = (s90 - s10) / s50."""


def smooth(values: Sequence[float]) -> list[float]:
    """Median of three neighbours; the ends stay."""
    if len(values) < 3:
        return list(values)
    inner = [median(values[k - 1 : k + 2]) for k in range(1, len(values) - 1)]
    return [values[0], *inner, values[-1]]


def transition(curve: Sequence[Point]) -> Transition | None:
    """Measure the rise from the start level (median of the first 3) to the end level (median of the last 3).

    Each of s10, s50, s90 is the last upward crossing of its level on the smoothed curve, linearly interpolated.

    Returns:
        None with fewer than 4 points, where the curve ends no higher than it began, or has its midpoint at update 0.
    """
    if len(curve) < 4:
        return None
    updates = [update for update, _ in curve]
    values = smooth([value for _, value in curve])
    low, high = median(values[:3]), median(values[-3:])
    if high <= low:
        return None
    s10, s50, s90 = (_last_crossing(updates, values, low + part * (high - low)) for part in (0.1, 0.5, 0.9))
    if s50 is None or s50 <= 0:
        return None
    rise = None if s10 is None else (s50 - s10) / s50
    width = None if s10 is None or s90 is None else (s90 - s10) / s50
    return Transition(s10, s50, s90, rise, width)


def _last_crossing(updates: Sequence[int], values: Sequence[float], level: float) -> float | None:
    for k in range(len(values) - 1, 0, -1):
        if values[k - 1] < level <= values[k]:
            part = (level - values[k - 1]) / (values[k] - values[k - 1])
            return updates[k - 1] + part * (updates[k] - updates[k - 1])
    return None


def label_of(found: Transition, options: ConvergenceOptions) -> Label:
    """Sudden: flat for most of the way to the midpoint, and the rise shorter than that way."""
    if found.rise_ratio is None or found.width_ratio is None:
        return "indeterminate"
    if found.rise_ratio >= options.gradual_rise or found.width_ratio >= options.gradual_width:
        return "gradual"
    if found.rise_ratio <= options.sudden_rise and found.width_ratio <= options.sudden_width:
        return "sudden"
    return "indeterminate"


def interval(evaluations: Sequence[Evaluation], seed: int = 0) -> tuple[float, float] | None:
    """95 % bootstrap interval of s50 over rows and timesteps: what another probe would have given.

    Each resample draws rows, and draws timesteps; the same ones at every evaluation, so that what belongs to an image
    stays together. It holds neither the noise of another training run nor the distance between the losses and the look
    of samples.

    Returns:
        None where most resamples have no midpoint, and where only gains are known, not the losses of rows.
    """
    if not evaluations[0].right:
        return None
    import numpy as np

    num_rows, num_timesteps = len(evaluations[0].right), len(evaluations[0].right[0])
    usable = np.zeros((len(evaluations), num_rows, 1))
    for k, evaluation in enumerate(evaluations):
        usable[k, usable_rows(evaluation)] = 1
    right_KNT = np.where(usable, np.array([evaluation.right for evaluation in evaluations]), 0.0)
    wrong_KNT = np.where(usable, np.array([evaluation.wrong for evaluation in evaluations]), 0.0)
    draw = np.random.default_rng(seed)
    # how often each row is drawn, and each timestep, per resample
    counts_RN = draw.multinomial(num_rows, [1 / num_rows] * num_rows, size=_NUM_RESAMPLES)
    counts_RT = draw.multinomial(num_timesteps, [1 / num_timesteps] * num_timesteps, size=_NUM_RESAMPLES)
    right_RKT = np.einsum("rn,knt->rkt", counts_RN, right_KNT)
    wrong_RKT = np.einsum("rn,knt->rkt", counts_RN, wrong_KNT)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain_RK = np.einsum("rt,rkt->rk", counts_RT / num_timesteps, 1 - right_RKT / wrong_RKT)
    updates = [evaluation.update for evaluation in evaluations]
    finite_RK = gain_RK[np.isfinite(gain_RK).all(axis=1)]
    curves = (list(zip(updates, values, strict=True)) for values in finite_RK.tolist())
    middles = [found.s50 for found in map(transition, curves) if found is not None]
    if 2 * len(middles) <= _NUM_RESAMPLES:
        return None
    low, high = np.percentile(middles, [2.5, 97.5])
    return float(low), float(high)
