import math
from typing import Any

import pytest
import torch

from controlmill.config import ObjectiveOptions
from controlmill.errors import ConfigError
from training.objective import LossByTimestep, Objective, min_snr_weights

ALPHAS = torch.linspace(0.999, 0.005, 1000)


def objective(prediction_type: str = "epsilon", **options: Any) -> Objective:
    return Objective(ObjectiveOptions(**options), alphas_cumprod_T=ALPHAS, prediction_type=prediction_type)


def test_timesteps_are_uniform_and_reach_both_ends() -> None:
    uniform = (torch.arange(5000, dtype=torch.float64) + 0.5) / 5000
    counts = objective().timesteps(uniform).bincount(minlength=1000)
    assert counts.tolist() == [5] * 1000
    ends = objective().timesteps(torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert ends.tolist() == [0, 999]


@pytest.mark.parametrize(
    ("options", "often", "rarely"),
    [
        ({"timestep_bias_strategy": "earlier", "timestep_bias_portion": 0.1}, slice(0, 100), slice(100, 1000)),
        ({"timestep_bias_strategy": "later", "timestep_bias_portion": 0.1}, slice(900, 1000), slice(0, 900)),
        (
            {"timestep_bias_strategy": "range", "timestep_bias_begin": 300, "timestep_bias_end": 400},
            slice(300, 400),
            slice(400, 1000),
        ),
    ],
)
def test_biased_timesteps_come_as_often_as_told(options: dict[str, Any], often: slice, rarely: slice) -> None:
    uniform = (torch.arange(130_000, dtype=torch.float64) + 0.5) / 130_000
    counts = objective(**options, timestep_bias_multiplier=4).timesteps(uniform).bincount(minlength=1000).double()
    assert counts[often].mean() / counts[rarely].mean() == pytest.approx(4, rel=0.01)


def test_a_range_of_timesteps_is_kept_to() -> None:
    uniform = torch.rand(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    timesteps = objective(min_timestep=200, max_timestep=210).timesteps(uniform)
    assert timesteps.unique().tolist() == list(range(200, 210))
    with pytest.raises(ConfigError, match="0 to 1000 of the base"):
        objective(max_timestep=2000)


def test_timesteps_drawn_alike_are_those_of_a_run_that_prefers_none() -> None:
    keys = [f"{number:05d}" for number in range(500)]
    preferring = objective(min_timestep=300, timestep_bias_strategy="later", timestep_bias_multiplier=5)
    drawn = preferring.draw(7, [0] * 500, keys, (1, 1, 1), alike=True)
    plain = objective().draw(7, [0] * 500, keys, (1, 1, 1))
    assert torch.equal(drawn.timesteps_B, plain.timesteps_B)
    assert torch.equal(drawn.noise_BCHW, plain.noise_BCHW)
    assert not torch.equal(drawn.timesteps_B, preferring.draw(7, [0] * 500, keys, (1, 1, 1)).timesteps_B)


def test_rows_draw_the_same_in_every_batch() -> None:
    drawn = objective(noise_offset=0.1).draw(7, [0, 1, 1], ["a", "b", "c"], (4, 8, 8))
    alone = objective(noise_offset=0.1).draw(7, [1], ["b"], (4, 8, 8))
    assert torch.equal(drawn.noise_BCHW[1:2], alone.noise_BCHW)
    assert torch.equal(drawn.timesteps_B[1:2], alone.timesteps_B)
    plain = objective().draw(7, [1], ["b"], (4, 8, 8))
    offset = (alone.noise_BCHW - plain.noise_BCHW)[0]
    assert torch.allclose(offset, offset[:, :1, :1].expand_as(offset), atol=1e-6)
    assert offset[:, 0, 0].abs().min() > 0


def test_the_loss_of_a_row_is_the_mean_square() -> None:
    predicted, target = torch.zeros(2, 4, 2, 2), torch.stack([torch.full((4, 2, 2), 3.0), torch.full((4, 2, 2), 0.5)])
    assert objective().losses(predicted, target, torch.tensor([0, 1])).tolist() == [9.0, 0.25]


def test_pseudo_huber_is_square_near_zero_and_linear_far_away() -> None:
    huber = objective(loss_type="huber", huber_c=0.1)
    near = huber.losses(torch.full((1, 1, 1, 1), 1e-3), torch.zeros(1, 1, 1, 1), torch.tensor([0]))
    far = huber.losses(torch.full((1, 1, 1, 1), 100.0), torch.zeros(1, 1, 1, 1), torch.tensor([0]))
    assert float(near) == pytest.approx(1e-6, rel=2e-2)
    assert float(far) == pytest.approx(2 * 0.1 * 100, rel=1e-2)


def test_min_snr_weights_are_those_of_the_paper() -> None:
    alphas = torch.tensor([0.9, 0.5, 0.1, 0.0])
    # signal to noise ratios: 9, 1, 1/9, 0
    assert min_snr_weights(alphas, 5.0, "epsilon").tolist() == pytest.approx([5 / 9, 1, 1, 1])
    assert min_snr_weights(alphas, 5.0, "v_prediction").tolist() == pytest.approx([5 / 10, 1 / 2, 0.1, 0])
    with pytest.raises(ConfigError, match="sample"):
        min_snr_weights(alphas, 5.0, "sample")


def test_min_snr_weighs_both_predictions_alike() -> None:
    """An error of x0 of the same size costs the same, whichever way the network puts it."""
    timesteps = torch.tensor([10, 500, 990])
    alpha, sigma = ALPHAS[timesteps].sqrt(), (1 - ALPHAS[timesteps]).sqrt()
    error_of_x0 = torch.full((3, 1, 1, 1), 0.1)
    of_noise = error_of_x0 * (alpha / sigma).view(3, 1, 1, 1)
    of_velocity = error_of_x0 / sigma.view(3, 1, 1, 1)
    zeros = torch.zeros(3, 1, 1, 1)
    epsilon = objective(snr_gamma=5.0).losses(of_noise, zeros, timesteps)
    velocity = objective("v_prediction", snr_gamma=5.0).losses(of_velocity, zeros, timesteps)
    torch.testing.assert_close(epsilon, velocity)


def test_losses_by_timestep_are_means_of_their_ranges() -> None:
    bins = LossByTimestep(1000)
    bins.add(bins.sums_of(torch.tensor([1.0, 3.0, 10.0]), torch.tensor([0, 99, 999])))
    bins.add(bins.sums_of(torch.tensor([5.0]), torch.tensor([50])))
    assert bins.take() == {"0-99": 3.0, "900-999": 10.0}
    assert bins.take() == {}


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="max_timestep: 3 is not above"):
        ObjectiveOptions(min_timestep=3, max_timestep=3)
    with pytest.raises(ValueError, match="timestep_bias_end"):
        ObjectiveOptions(timestep_bias_begin=5, timestep_bias_end=5)
    assert math.isfinite(ObjectiveOptions(snr_gamma=5).snr_gamma or 0)
