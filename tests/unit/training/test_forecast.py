"""The forecast: exact on exponential growth, near on bent curves, silent where there is no growth."""

import math
import random
import time

import pytest

from controlmill.config.convergence import ConvergenceOptions
from training.forecast import Forecast, forecast

OPTIONS = ConvergenceOptions()
# sensitivity of the residuals of a small pixel model, one evaluation each 40 updates; the gain's midpoint was at 466,
# so that its rise, which was steep, was well begun somewhat before
MEASURED = [0.0, 0.0002, 0.0007, 0.0032, 0.008, 0.0162, 0.0284, 0.0619, 0.162, 0.4219, 0.8214, 1.1278]
# the same of a run with unrelated hints, one each 20 updates
UNRELATED = [0.0, 0.0012, 0.0012, 0.0021, 0.0038, 0.0077, 0.007, 0.0112, 0.0185, 0.0531, 0.0261, 0.02, 0.0174, 0.0129]


def exponential(update: int) -> float:
    """Reaches 1 at update 1000."""
    return math.exp((update - 1000) / 120)


def test_exponential_growth_is_extrapolated_to_one_and_the_lag_added() -> None:
    made = forecast([(update, exponential(update)) for update in range(0, 641, 40)], OPTIONS, is_significant=True)
    assert made == Forecast(640, 1330, 1000, 1700)
    assert made.sentence() == "expected around update 1,330, between 1,000 and 1,700"


@pytest.mark.parametrize("last", range(7, 10))
def test_a_measured_run(last: int) -> None:
    made = forecast([(40 * k, s) for k, s in enumerate(MEASURED[: last + 1])], OPTIONS, is_significant=True)
    assert made is not None
    assert made.expected == pytest.approx(466, rel=0.3)
    assert made.low <= 466 <= made.high


def test_nothing_is_said_below_the_threshold() -> None:
    for last in range(7):
        assert forecast([(40 * k, s) for k, s in enumerate(MEASURED[: last + 1])], OPTIONS, is_significant=True) is None
    eager = ConvergenceOptions(forecast_sensitivity=0.01)
    assert forecast([(40 * k, s) for k, s in enumerate(MEASURED[:7])], eager, is_significant=True) is not None


def test_growth_that_would_take_far_too_long_is_none() -> None:
    slow = [(update, 0.04 * math.exp(update / 3000)) for update in range(0, 2001, 100)]
    assert forecast(slow, OPTIONS, is_significant=True) is None
    assert forecast([(update, 0.3) for update in range(0, 401, 40)], OPTIONS, is_significant=True) is None
    assert (
        forecast([(update, 0.3 - update / 2000) for update in range(0, 401, 40)], OPTIONS, is_significant=True) is None
    )


def test_a_leap_of_unrelated_hints_is_no_growth() -> None:
    leap = [0.0, 0.149, 0.53, 0.723, 0.453, 0.312, 0.268, 0.175]
    assert all(
        forecast([(5 * k, s) for k, s in enumerate(leap[:n])], OPTIONS, is_significant=False) is None for n in range(9)
    )
    for last in range(len(UNRELATED)):
        points = [(20 * k, s) for k, s in enumerate(UNRELATED[: last + 1])]
        assert forecast(points, OPTIONS, is_significant=False) is None


def test_growth_over_two_evaluations_needs_no_significance() -> None:
    points = [(40 * k, s) for k, s in enumerate(MEASURED)]
    assert forecast(points[:8], OPTIONS, is_significant=False) is None
    assert forecast(points[:9], OPTIONS, is_significant=False) == forecast(points[:9], OPTIONS, is_significant=True)


def test_what_was_not_measured_is_left_out() -> None:
    points = [(update, exponential(update)) for update in range(0, 641, 40)]
    holed = [(update, None if update in (520, 600) else s) for update, s in points]
    made = forecast(holed, OPTIONS, is_significant=True)
    assert made is not None
    assert made.expected == pytest.approx(1330, abs=1)
    assert forecast([(update, None) for update, _ in points], OPTIONS, is_significant=True) is None
    assert forecast(points[-3:], OPTIONS, is_significant=True) is None


def test_what_ran_over_is_left_out() -> None:
    points = [(40 * k, s) for k, s in enumerate(MEASURED[:9])]
    holed = [(update, math.inf if update == 200 else s) for update, s in points]
    without = [point for point in points if point[0] != 200]
    assert forecast(holed, OPTIONS, is_significant=True) == forecast(without, OPTIONS, is_significant=True) is not None


def test_noise_widens_the_interval_and_it_holds_the_truth() -> None:
    draw = random.Random("forecast")
    inside, widths = 0, []
    for _ in range(50):
        points = [(update, exponential(update) * math.exp(draw.gauss(0, 0.3))) for update in range(40, 701, 40)]
        made = forecast(points, OPTIONS, is_significant=True)
        if made is None:
            continue
        inside += made.low <= 1330 <= made.high
        widths.append(made.high - made.low)
    assert len(widths) >= 40
    assert inside >= 0.9 * len(widths)
    assert sorted(widths)[25] > 250


def test_a_long_log_gives_the_same_at_little_cost() -> None:
    """Evaluations at every update: all pairs of them would be a million slopes, each time."""
    often = [(update, exponential(update)) for update in range(1, 701)]
    seldom = [point for point in often if point[0] % 20 == 0]
    made = forecast(often, OPTIONS, is_significant=True)
    assert made == forecast(seldom, OPTIONS, is_significant=True) is not None
    long = [(update, exponential(update / 10)) for update in range(1, 7001)]
    started_s = time.process_time()
    assert forecast(long, OPTIONS, is_significant=True) is not None
    assert time.process_time() - started_s < 0.5


def test_the_expected_update_is_never_in_the_past() -> None:
    points = [(update, 1.5 * exponential(update)) for update in range(0, 1201, 40)]
    made = forecast(points, OPTIONS, is_significant=True)
    assert made is not None
    assert made.low >= 1200
    assert made.expected >= 1200
