"""The control gain: how much lower the noise-prediction loss is with a row's own hint than with another row's.

Plain floats, no torch: the same arithmetic runs inside the training loop and over a `probe.jsonl` years later.
Legend: N rows of the probe, T timesteps; `right[i][t]` is the loss of row i at timestep t with its own hint,
`wrong[i][t]` that with the hint of another of the N rows, same image, noise and timestep. A fresh derangement is drawn
per evaluation: one that is kept gives flukes that stay, and hints from outside the N rows bring a main effect of the
hint into the difference.
"""

import math
from dataclasses import dataclass
from statistics import fmean, stdev

Losses = tuple[tuple[float, ...], ...]

# differences below this are rounding: right and wrong are bit-equal while the zero convolutions are zero
_ROUNDING = 1e-12
# no mean squared error of a network is beyond these; within them sums and quotients stay far from the range of floats
_LEAST_LOSS, _LARGEST_LOSS = 1e-60, 1e60


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of the probe, as one line of `probe.jsonl` holds it."""

    update: int
    right: Losses
    wrong: Losses
    sensitivity: float | None = None
    """S = ||residuals(hint) - residuals(other hint)|| / ||residuals(hint)||; None where it was not measured."""
    samples_seen: int | None = None
    epoch: float | None = None


@dataclass(frozen=True, slots=True)
class Gain:
    """What one evaluation says."""

    gain: float
    """Relative loss penalty for the wrong hint, mean over timesteps: 0 is no control; it stays below 1."""
    p_value: float
    """One-sided p-value of "the wrong hint does not cost more", paired over rows."""
    z: float
    win_rate: float
    """Share of the rows whose own hint gives the lower loss."""
    num_rows: int


def usable_rows(evaluation: Evaluation) -> list[int]:
    """Rows whose losses are all finite numbers above 0; a row with one NaN says nothing at any timestep."""
    return [
        row
        for row, losses in enumerate(zip(evaluation.right, evaluation.wrong, strict=True))
        if all(_LEAST_LOSS <= loss <= _LARGEST_LOSS for side in losses for loss in side)
    ]


def measure(evaluation: Evaluation) -> Gain | None:
    """The control gain of one evaluation and its significance.

    g = mean over t of (1 - sum_i right[i][t] / sum_i wrong[i][t]), an effect size.
    q_i = mean over t of log(wrong[i][t] / right[i][t]), one number per row: timesteps of a row are not independent, so
    they are pooled before the test. z = mean(q) / (sd(q) / sqrt(N)), against Student's t with N - 1 degrees of freedom.

    Returns:
        None where fewer than half of the rows, or fewer than 2, are usable: the evaluation counts as missing.
    """
    rows = usable_rows(evaluation)
    if len(rows) < 2 or 2 * len(rows) < len(evaluation.right):
        return None
    timesteps = range(len(evaluation.right[0]))
    ratios = [
        sum(evaluation.wrong[row][t] for row in rows) / sum(evaluation.right[row][t] for row in rows) for t in timesteps
    ]
    gain = fmean(1 - 1 / ratio for ratio in ratios)
    log_ratios = [
        fmean(math.log(evaluation.wrong[row][t] / evaluation.right[row][t]) for t in timesteps) for row in rows
    ]
    z = z_score(log_ratios)
    win_rate = sum(ratio > 0 for ratio in log_ratios) / len(rows)
    return Gain(gain, p_value(z, len(rows) - 1), z, win_rate, len(rows))


def z_score(values: list[float]) -> float:
    """Mean by standard error; 0 where all values are 0 (before the first update), infinite where all are alike."""
    mean, spread = fmean(values), stdev(values)
    if spread > _ROUNDING:
        return mean / (spread / math.sqrt(len(values)))
    return 0.0 if abs(mean) <= _ROUNDING else math.copysign(math.inf, mean)


def p_value(z: float, degrees_of_freedom: int) -> float:
    """P(T >= z) for Student's t."""
    from scipy.special import stdtr

    return float(stdtr(degrees_of_freedom, -z))
