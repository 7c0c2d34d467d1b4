"""How often the probe is evaluated by default."""

import pytest

from training.probe_interval import cost_in_updates, default_interval, expected_convergence


def test_the_usual_scale_is_that_of_the_paper_at_its_learning_rate() -> None:
    assert expected_convergence(1e-5) == 6000
    assert expected_convergence(1e-4) == 1197
    assert expected_convergence(1e-3) == 239


def test_a_large_batch_lets_the_resolution_decide() -> None:
    cost = cost_in_updates(32, 3, 256)
    assert cost == pytest.approx(0.315)
    assert default_interval(1e-5, cost) == 240


@pytest.mark.parametrize("rows_per_update", [1, 4, 16, 64])
def test_the_default_never_costs_more_than_three_percent(rows_per_update: int) -> None:
    for rate in (1e-3, 1e-4, 1e-5, 5e-6):
        cost = cost_in_updates(32, 3, rows_per_update)
        interval = default_interval(rate, cost)
        # over five intervals, with the evaluation before the first update
        assert 6 * cost / (5 * interval) <= 0.03
