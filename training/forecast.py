"""When sudden convergence is to be expected: while nothing visible happens, S grows about exponentially towards 1.

S is the residuals' sensitivity to the hint: the relative distance between the residuals for two hints. The hint passes
two layers that start at zero, so its effect grows like the escape from a saddle point, and it is followed when S comes
near 1. A straight line through log S, extrapolated to S = 1, therefore dates it. The line is Theil and Sen's (median of
the slopes of all pairs), as curves of S have plateaus, through the later part of the way, as they bend before it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from controlmill.config.convergence import ConvergenceOptions

# the line goes through the evaluations of this last part of the updates so far, and through at least 4 of them
_WINDOW = 0.6
_MIN_POINTS = 4
# of longer windows so many evaluations at least, evenly spaced: their pairs are counted, on every rank, each time
_MAX_POINTS = 100
# S reaches 1 somewhat before the hint is followed: by this factor at the median, and between these at most. They were
# 1.1 and 1.4 for a gain of 0.05; 0.15 came 1.21 times as late in the median of the 12 runs of 2026-11-20 that converged
_LAG, _LEAST_LAG, _MOST_LAG = 1.33, 1.0, 1.7
# the interval takes the slopes of pairs between these parts of them in order of size
_LOW_SLOPE, _HIGH_SLOPE = 0.2, 0.8
# S of unrelated hints leaps up and falls again: below this part of its maximum so far it does not grow
_LEAST_OF_MAXIMUM = 0.7
# a line that would need longer than this times the updates so far is not a growth towards 1: unrelated hints give such
_MOST_WAY = 2.5


@dataclass(frozen=True, slots=True)
class Forecast:
    """Made at `update`: `control_following` is expected at update `expected`, between `low` and `high`."""

    update: int
    expected: int
    low: int
    high: int

    def sentence(self) -> str:
        """For a person."""
        return f"expected around update {self.expected:,}, between {self.low:,} and {self.high:,}"


def forecast(
    points: Sequence[tuple[int, float | None]], options: ConvergenceOptions, *, is_significant: bool
) -> Forecast | None:
    """Extrapolate the growth of S.

    Args:
        points: update and S of each evaluation so far, in their order; None where S was not measured.
        options: `forecast_sensitivity`, below which nothing is said.
        is_significant: whether the last evaluation finds the right hint better than the wrong one, however little.

    Returns:
        None below `forecast_sensitivity`, with fewer than 4 evaluations, and while S does not grow towards 1.
    """
    logs = [(update, math.log(s)) for update, s in points if s is not None and 0 < s < math.inf and update > 0]
    least = math.log(options.forecast_sensitivity)
    # S of unrelated hints leaps above the threshold for single evaluations, but the right hint is no better then
    if len(logs) < _MIN_POINTS or any(level < least for _, level in logs[-1 if is_significant else -2 :]):
        return None
    now = logs[-1][0]
    if logs[-1][1] < max(level for _, level in logs) + math.log(_LEAST_OF_MAXIMUM):
        return None
    window = [point for point in logs if point[0] >= now * (1 - _WINDOW)]
    if len(window) < _MIN_POINTS:
        window = logs[-_MIN_POINTS:]
    # from the last one backwards
    window = window[:: -max(1, len(window) // _MAX_POINTS)][::-1]
    slopes = sorted((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(window, 2))
    slope = median(slopes)
    level = median(y - slope * x for x, y in window)
    if slope <= 0 or -level / slope > _MOST_WAY * now:
        return None
    crossing = -level / slope
    # from the middle of the window, where the line is known best
    x, y = median(x for x, _ in window), median(y for _, y in window)
    bounds = [x - y / one if one > 0 else math.inf for one in (_part(slopes, _HIGH_SLOPE), _part(slopes, _LOW_SLOPE))]
    low, high = min(bounds[0], crossing) * _LEAST_LAG, min(max(bounds[1], crossing), _MOST_WAY * now) * _MOST_LAG
    return Forecast(now, *(max(now, round(update)) for update in (crossing * _LAG, low, high)))


def _part(ordered: Sequence[float], part: float) -> float:
    return ordered[round(part * (len(ordered) - 1))]
