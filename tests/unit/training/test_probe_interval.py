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
    """In GFLOPs of Stable Diffusion 1.5 at 512 x 512, as torch counts them: encoder, ControlNet, decoder, an update."""
    encoder, controlnet, decoder, update = 268, 283, 535, 2265
    losses = 32 * 3
    evaluation = losses * (encoder + 2 * controlnet + 2 * decoder)
    for rate in (1e-3, 1e-4, 1e-5, 5e-6):
        interval = default_interval(rate, cost_in_updates(32, 3, rows_per_update))
        # over ten intervals, with the evaluation before the first update and its losses without control
        share = (11 * evaluation + losses * decoder) / (10 * interval * rows_per_update * update)
        assert share <= 0.03
        # and no less often than that asks for, or than 4 % of the way
        assert interval == 1 or share >= 0.02 or interval <= 0.04 * 6000 * (1e-5 / rate) ** 0.7 + 1
