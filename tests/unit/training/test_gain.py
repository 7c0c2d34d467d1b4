"""The control gain and its significance, on numbers worked out by hand."""

import math

import pytest

from training.gain import Evaluation, measure, p_value, usable_rows, z_score

NAN = math.nan


def test_gain_is_the_mean_over_timesteps_of_the_relative_penalty() -> None:
    # timestep 0: 1 - 3/4 = 0.25; timestep 1: 1 - 9/12 = 0.25
    right = ((1.0, 1.0), (2.0, 8.0))
    wrong = ((2.0, 2.0), (2.0, 10.0))
    found = measure(Evaluation(100, right, wrong))
    assert found is not None
    assert found.gain == pytest.approx((1 - 3 / 4 + 1 - 9 / 12) / 2)
    assert found.win_rate == 1.0
    assert found.num_rows == 2
    # row 0: log 2 at both timesteps; row 1: 0 and log 1.25
    ratios = [math.log(2), math.log(1.25) / 2]
    mean, spread = sum(ratios) / 2, abs(ratios[0] - ratios[1]) / math.sqrt(2)
    assert found.z == pytest.approx(mean / (spread / math.sqrt(2)))


def test_timesteps_of_a_row_are_pooled_before_the_test() -> None:
    """Copying each timestep ten times must not make the result more significant."""
    right, wrong = [0.9, 1.1, 0.8, 1.0], [1.0, 1.05, 1.0, 1.1]
    once = measure(Evaluation(0, tuple((r,) for r in right), tuple((w,) for w in wrong)))
    ten = measure(Evaluation(0, tuple((r,) * 10 for r in right), tuple((w,) * 10 for w in wrong)))
    assert once is not None
    assert ten is not None
    assert ten.p_value == pytest.approx(once.p_value)


@pytest.mark.parametrize(
    ("z", "degrees", "expected"),
    [(0.0, 31, 0.5), (1.0, 1, 0.25), (2.0, 2, 0.0917517), (3.375, 31, 0.001), (-1.0, 1, 0.75), (math.inf, 31, 0.0)],
)
def test_p_value_is_one_sided(z: float, degrees: int, expected: float) -> None:
    """From the closed forms with 1 and 2 degrees of freedom, and from a table with 31."""
    assert p_value(z, degrees) == pytest.approx(expected, rel=2e-3)


def test_before_the_first_update_there_is_neither_gain_nor_significance() -> None:
    losses = tuple((0.3 + row / 100, 0.2, 0.1) for row in range(32))
    found = measure(Evaluation(0, losses, losses))
    assert found is not None
    assert (found.gain, found.z, found.p_value, found.win_rate) == (0.0, 0.0, 0.5, 0.0)


def test_rows_that_are_all_alike_leave_no_doubt() -> None:
    assert z_score([0.25, 0.25, 0.25]) == math.inf
    assert z_score([-0.25, -0.25, -0.25]) == -math.inf
    assert z_score([0.0, 0.0]) == 0.0


def test_a_row_with_one_loss_that_is_not_finite_is_left_out() -> None:
    right = ((0.5, 0.5), (NAN, 0.5), (0.5, 0.5), (0.5, 0.25))
    wrong = ((1.0, 1.0), (1.0, 1.0), (1.0, math.inf), (1.0, 1.0))
    evaluation = Evaluation(10, right, wrong)
    assert usable_rows(evaluation) == [0, 3]
    found = measure(evaluation)
    assert found is not None
    assert found.num_rows == 2
    assert found.gain == pytest.approx((0.5 + (1 - 0.75 / 2)) / 2)


def test_too_few_usable_rows_say_nothing() -> None:
    row, bad = (0.5,), (NAN,)
    assert measure(Evaluation(1, (row, bad), (row, row))) is None
    assert measure(Evaluation(1, (row, row, bad, bad, bad), (row,) * 5)) is None
    assert measure(Evaluation(1, (row, row, row, bad, bad), (row,) * 5)) is not None
