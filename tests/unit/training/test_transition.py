"""The shape of a rise: literal curves, and the interval over the rows."""

import math
from collections.abc import Callable

import pytest

from controlmill.config.convergence import ConvergenceOptions
from controlmill.testing.probe_curves import evaluations
from training.gain import Evaluation, measure
from training.transition import Transition, interval, label_of, smooth, transition

OPTIONS = ConvergenceOptions()
TOP, END, MIDDLE = 0.6, 2000, 1000


def logistic(width: float) -> Callable[[int], float]:
    """10 to 90 % of the rise take `width` times the way to the midpoint, update 1000."""
    steepness = 2 * math.log(9) / (width * MIDDLE)
    return lambda update: TOP / (1 + math.exp(-steepness * (update - MIDDLE)))


CURVES: list[tuple[Callable[[int], float], float, float, str]] = [
    (logistic(0.08), 0.04, 0.08, "sudden"),
    (logistic(0.25), 0.13, 0.25, "sudden"),
    (logistic(0.5), 0.25, 0.50, "sudden"),
    (logistic(0.83), 0.41, 0.81, "indeterminate"),
    (logistic(1.25), 0.55, 1.10, "indeterminate"),
    (lambda update: TOP * (update / END) ** 2, 0.55, 0.89, "indeterminate"),
    (lambda update: TOP * update / END, 0.77, 1.54, "gradual"),
    (lambda update: TOP * (1 - math.exp(-update / 500)), 0.76, 2.69, "gradual"),
    (lambda update: TOP * math.sqrt(update / END), 0.84, 2.40, "gradual"),
]


@pytest.mark.parametrize(("curve", "rise", "width", "label"), CURVES)
def test_sudden_and_gradual_curves(curve: Callable[[int], float], rise: float, width: float, label: str) -> None:
    found = transition([(update, curve(update)) for update in range(0, END + 1, 40)])
    assert found is not None
    assert found.rise_ratio == pytest.approx(rise, abs=0.006)
    assert found.width_ratio == pytest.approx(width, abs=0.006)
    assert label_of(found, OPTIONS) == label


def test_a_step_is_placed_between_its_evaluations() -> None:
    found = transition([(0, 0.0), (100, 0.0), (200, 0.0), (300, 0.4), (400, 0.4), (500, 0.4)])
    assert found is not None
    assert found.s10 == pytest.approx(210)
    assert found.s50 == pytest.approx(250)
    assert found.s90 == pytest.approx(290)
    assert found.rise_ratio == pytest.approx(40 / 250)
    assert found.width_ratio == pytest.approx(80 / 250)


def test_the_last_upward_crossing_counts_and_one_outlier_does_not() -> None:
    found = transition(
        [(0, 0.0), (10, 0.0), (20, 0.5), (30, 0.0), (40, 0.0), (50, 0.2), (60, 0.4), (70, 0.4), (80, 0.4)]
    )
    assert found is not None
    assert found.s50 == pytest.approx(50)
    assert smooth([0.0, 0.9, 0.1, 0.2]) == [0.0, 0.1, 0.2, 0.2]
    assert smooth([0.3, 0.1]) == [0.3, 0.1]


@pytest.mark.parametrize(
    "gains", [[0.0, 0.1, 0.2], [0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.1, 0.1, 0.1]], ids=["short", "falling", "flat"]
)
def test_no_rise_no_midpoint(gains: list[float]) -> None:
    assert transition([(10 * k, gain) for k, gain in enumerate(gains)]) is None


def test_a_curve_that_starts_inside_of_the_rise_is_not_labelled() -> None:
    assert label_of(Transition(None, 50.0, 90.0, None, None), OPTIONS) == "indeterminate"


def test_the_interval_holds_the_midpoint_and_narrows_with_the_rows() -> None:
    widths = []
    for num_rows in (8, 128):
        seen = evaluations(range(0, END + 1, 40), logistic(0.25), num_rows=num_rows, spread=0.1)
        found = interval(seen)
        assert found is not None
        low, high = found
        gains = [(one.update, gain.gain) for one in seen if (gain := measure(one)) is not None]
        middle = transition(gains)
        assert middle is not None
        assert low <= middle.s50 <= high
        widths.append(high - low)
        assert interval(seen) == found
    assert widths[1] < widths[0] / 2


def test_no_interval_where_nothing_rises() -> None:
    assert interval(evaluations(range(0, 400, 40), lambda update: 0.4 - update / 1000, spread=0.0)) is None


def test_no_interval_where_fewer_than_half_of_the_resamples_rise() -> None:
    """A rise of 0.012 among scattered rows: with 90 of 200 resamples it ends higher, and has a midpoint."""

    def rises_by(height: float) -> list[Evaluation]:
        return evaluations(range(40, 441, 40), lambda update: 0.02 + height * (update > 200), num_rows=8, spread=0.05)

    assert interval(rises_by(0.012)) is None
    assert interval(rises_by(0.03)) is not None
