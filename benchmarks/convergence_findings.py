"""What the runs of convergence_study.py show, as numbers and as a table; every sentence is made from the numbers."""

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, variance
from typing import Any

import numpy as np
from convergence_runs import TRUTH, Spec

from training.gain import p_value
from training.report import Report, analyse
from training.transition import transition

Curve = list[tuple[float, float]]

# the loss counts as fallen by the same rule as the gain as risen: this much, this certain, so often in a row
_LEAST_FALL, _CERTAIN, _IN_A_ROW = 0.05, 1e-3, 2
# the plateaus of controllability: the first and the last so much of the run
_PLATEAU = 0.15
# overlap that is no chance any more: over three standard errors of 24 samples
_LEAST_RISE = 0.08
_NUM_DRAWS = 200


@dataclass(frozen=True)
class Findings:
    """One run."""

    spec: Spec
    report: Report
    overlap: Curve
    """Overlap of the discs in samples with their own hint, less that with another row's."""
    middle_interval: tuple[float, float] | None
    """95 % of the midpoints of that curve when its rows are drawn anew, with replacement."""
    f1: Curve
    """The same of Canny's edges."""
    losses: Curve
    """Training loss, mean between two evaluations, at the second one."""
    loss_fell_at: int | None
    """Where the rule of `following`, applied to the training loss, finds a fall."""
    loss_step: float | None
    """Where the rule of s50, applied to the training loss, puts its one change point."""

    @property
    def middle(self) -> float | None:
        """Update at which controllability is halfway up, by the overlap of discs."""
        return middle_of(self.overlap) if self.has_converged else None

    @property
    def middle_f1(self) -> float | None:
        """The same by edges."""
        return middle_of(self.f1) if self.has_converged else None

    @property
    def overlap_at_end(self) -> float:
        """Mean of the last part of the run."""
        return plateaus(self.overlap)[1]

    @property
    def f1_at_end(self) -> float:
        """The same by edges."""
        return plateaus(self.f1)[1]

    @property
    def has_converged(self) -> bool:
        """Whether samples obey their hints at the end, whatever the probe says."""
        return has_risen(self.overlap)

    @property
    def is_late(self) -> bool:
        """Whether low timesteps are not trained."""
        return bool(self.spec.options.get("min_timestep"))

    @property
    def values(self) -> dict[str, Any]:
        """What `controlmill convergence --json` prints."""
        return self.report.to_json()

    @property
    def s50_when_settled(self) -> float | None:
        """The convergence update as the event said it, without what came after."""
        event = self.report.detector.events.get("control_settled")
        return None if event is None else event.values["convergence_update"]

    def offset(self, update: float | None) -> float | None:
        """How far an update is from the middle of controllability, as a part of the way to it."""
        return None if update is None or self.middle is None else update / self.middle - 1


def findings_of(spec: Spec, folder: Path) -> Findings:
    """Read what a run left."""
    run = folder / spec.name
    truth = _lines(run / TRUTH)
    metrics = [(line["update"], line["loss"]) for line in _lines(run / "metrics.jsonl")]
    groups = [[loss for update, loss in metrics if k - spec.every < update <= k]
              for k in range(spec.every, spec.updates + 1, spec.every)]  # fmt: skip
    losses = [(spec.every * (number + 1), fmean(group)) for number, group in enumerate(groups) if group]
    fallen = transition([(round(update), -loss) for update, loss in losses])
    return Findings(
        spec,
        analyse(run, {}),
        _difference(truth, "iou"),
        interval_of_middle(truth),
        _difference(truth, "f1"),
        losses,
        fall_of(groups, spec.every),
        None if fallen is None else fallen.s50,
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _difference(truth: list[dict[str, Any]], name: str) -> Curve:
    return [(line["update"], fmean(line[f"{name}_own"]) - fmean(line[f"{name}_other"])) for line in truth]


def middle_of(curve: Curve) -> float | None:
    """The last crossing of the level halfway between the plateaus, curve smoothed by medians of three."""
    low, high = plateaus(curve)
    values = [value for _, value in curve]
    inner = [median(values[k - 1 : k + 2]) for k in range(1, len(values) - 1)]
    smooth = [values[0], *inner, values[-1]]
    level = (low + high) / 2
    for (x0, y0), (x1, y1) in reversed(list(pairwise(zip((x for x, _ in curve), smooth, strict=True)))):
        if y0 < level <= y1:
            return x0 + (level - y0) / (y1 - y0) * (x1 - x0)
    return None


def interval_of_middle(truth: list[dict[str, Any]]) -> tuple[float, float] | None:
    """How certain the midpoint of the overlap is, by the bootstrap over rows; None where most draws have none."""
    updates = [line["update"] for line in truth]
    rises = np.array([np.subtract(line["iou_own"], line["iou_other"]) for line in truth])
    rng = np.random.default_rng(0)
    found = []
    for _ in range(_NUM_DRAWS):
        drawn = rises[:, rng.integers(0, rises.shape[1], rises.shape[1])].mean(1)
        middle = middle_of(list(zip(updates, drawn.tolist(), strict=True)))
        found += [] if middle is None else [middle]
    if len(found) < _NUM_DRAWS / 2:
        return None
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def has_risen(overlap: Curve) -> bool:
    """Whether samples obey their hints more at the end than by chance."""
    low, high = plateaus(overlap)
    return high - low > _LEAST_RISE


def plateaus(curve: Curve) -> tuple[float, float]:
    """Mean of the first and of the last part of a curve."""
    end = curve[-1][0]
    low = [value for update, value in curve if update <= _PLATEAU * end]
    high = [value for update, value in curve if update >= (1 - _PLATEAU) * end]
    return fmean(low), fmean(high)


def fall_of(groups: list[list[float]], every: int) -> int | None:
    """Where the training loss has fallen by 5 % of its start, by Welch's test, twice in a row; None for never."""
    start = [loss for group in groups[:3] for loss in group]
    in_a_row = 0
    for number, group in enumerate(groups[3:], start=4):
        if len(group) < 2:
            continue
        error = math.sqrt(variance(start) / len(start) + variance(group) / len(group))
        z = (fmean(start) - fmean(group)) / error if error else 0.0
        has_fallen = fmean(group) <= (1 - _LEAST_FALL) * fmean(start) and p_value(z, len(group) - 1) < _CERTAIN
        in_a_row = in_a_row + 1 if has_fallen else 0
        if in_a_row >= _IN_A_ROW:
            return number * every
    return None
