"""What is minimised: the error of the predicted noise or velocity, at timesteps drawn for each row.

Legend: B batch, C channels, H W latent height and width, T timesteps of the base.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from controlmill.errors import ConfigError
from training import draws

if TYPE_CHECKING:
    from controlmill.config import ObjectiveOptions

NUM_TIMESTEP_BINS = 10


@dataclass(frozen=True, slots=True)
class Drawn:
    """What chance decides for the rows of a batch."""

    timesteps_B: Tensor
    """int64."""
    noise_BCHW: Tensor
    """float32, with its offset."""


class Objective:
    """Timesteps, noise and loss of a run."""

    def __init__(self, options: "ObjectiveOptions", *, alphas_cumprod_T: Tensor, prediction_type: str) -> None:
        """Weigh and bound the timesteps.

        Args:
            options: the loss, its weights, and which timesteps are trained.
            alphas_cumprod_T: of the base, float32.
            prediction_type: "epsilon" or "v_prediction".

        Raises:
            ConfigError: the range of timesteps is not one of the base's.
        """
        self._options = options
        self.num_timesteps = len(alphas_cumprod_T)
        self._cumulative_T = _cumulative(options, self.num_timesteps)
        self._weights_T = (
            None if options.snr_gamma is None else min_snr_weights(alphas_cumprod_T, options.snr_gamma, prediction_type)
        )

    def draw(
        self, seed: int, epochs: Sequence[int], keys: Sequence[str], shape_CHW: Sequence[int], *, alike: bool = False
    ) -> Drawn:
        """Timesteps and noise of rows: a function of the seed and of each row's epoch and key, whatever the batch.

        `alike` draws from all timesteps of the base, whatever the options prefer.
        """
        uniform_B = draws.uniform(seed, epochs, keys, "timestep")
        timesteps_B = (uniform_B * self.num_timesteps).long() if alike else self.timesteps(uniform_B)
        noise_BCHW = draws.normal(seed, epochs, keys, "noise", tuple(shape_CHW))
        if self._options.noise_offset:
            offset_BC11 = draws.normal(seed, epochs, keys, "noise_offset", (shape_CHW[0], 1, 1))
            noise_BCHW = noise_BCHW + self._options.noise_offset * offset_BC11
        return Drawn(timesteps_B, noise_BCHW)

    def timesteps(self, uniform_B: Tensor) -> Tensor:
        """Timesteps (int64) from numbers in [0, 1), by the inverse of their distribution."""
        found_B = torch.searchsorted(self._cumulative_T, uniform_B.double().cpu(), right=True)
        return found_B.clamp(max=self.num_timesteps - 1)

    def losses(self, predicted_BCHW: Tensor, target_BCHW: Tensor, timesteps_B: Tensor) -> Tensor:
        """The loss of each row, float32 [B]; that of an update is their mean."""
        error_BCHW = predicted_BCHW.float() - target_BCHW.float()
        if self._options.loss_type == "huber":
            c = self._options.huber_c
            # as kohya's sd-scripts scale it: the squared error near zero, 2c|x| far from it
            loss_BCHW = 2 * c * ((error_BCHW.square() + c * c).sqrt() - c)
        else:
            loss_BCHW = error_BCHW.square()
        loss_B = loss_BCHW.flatten(1).mean(1)
        if self._weights_T is None:
            return loss_B
        return loss_B * self._weights_T.to(loss_B.device)[timesteps_B.to(loss_B.device)]


def min_snr_weights(alphas_cumprod_T: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """The weight of each timestep, float32.

    Source: Hang et al., Efficient Diffusion Training via Min-SNR Weighting Strategy (arXiv 2303.09556), section 3.4:
    min(SNR, gamma) on the error of x0, which is min(SNR, gamma) / SNR on that of the noise and
    min(SNR, gamma) / (SNR + 1) on that of the velocity. Where SNR is 0 (zero terminal SNR) the first has the limit 1.
    """
    alphas_T = alphas_cumprod_T.double()
    snr_T = alphas_T / (1 - alphas_T)
    clipped_T = snr_T.clamp(max=gamma)
    if prediction_type == "v_prediction":
        return (clipped_T / (snr_T + 1)).float()
    if prediction_type == "epsilon":
        return torch.where(snr_T > 0, clipped_T / snr_T, torch.ones_like(snr_T)).float()
    raise ConfigError(f"snr_gamma: there is no weighting for a base that predicts {prediction_type!r}")


def _cumulative(options: "ObjectiveOptions", num_timesteps: int) -> Tensor:
    """The cumulative distribution of timesteps, float64 [T]."""
    top = num_timesteps if options.max_timestep is None else options.max_timestep
    if top > num_timesteps or options.min_timestep >= top:
        raise ConfigError(
            f"min_timestep, max_timestep: {options.min_timestep} to {top} is not within the "
            f"0 to {num_timesteps} of the base"
        )
    weights_T = torch.ones(num_timesteps, dtype=torch.float64)
    weights_T[_biased(options, num_timesteps)] = options.timestep_bias_multiplier
    weights_T[: options.min_timestep] = 0
    weights_T[top:] = 0
    return (weights_T.cumsum(0) / weights_T.sum()).clamp(max=1)


def _biased(options: "ObjectiveOptions", num_timesteps: int) -> slice:
    """The timesteps that are drawn more often; named as in diffusers' train_text_to_image_sdxl.py."""
    portion = round(num_timesteps * options.timestep_bias_portion)
    if options.timestep_bias_strategy == "earlier":
        return slice(0, portion)
    if options.timestep_bias_strategy == "later":
        return slice(num_timesteps - portion, num_timesteps)
    if options.timestep_bias_strategy == "range":
        return slice(options.timestep_bias_begin, min(options.timestep_bias_end, num_timesteps))
    return slice(0, 0)


class LossByTimestep:
    """Sums of losses by range of timesteps; a tensor of sums and counts that ranks can add up."""

    def __init__(self, num_timesteps: int) -> None:
        self._num_timesteps = num_timesteps
        edges = [round(i * num_timesteps / NUM_TIMESTEP_BINS) for i in range(NUM_TIMESTEP_BINS + 1)]
        self.names = tuple(f"{low}-{high - 1}" for low, high in pairwise(edges))
        self.sums = torch.zeros(2, NUM_TIMESTEP_BINS, dtype=torch.float64)
        """Row 0: sums of losses; row 1: their numbers."""

    def sums_of(self, losses_B: Tensor, timesteps_B: Tensor) -> Tensor:
        """The sums of a batch, float64 [2, bins], on the device of its losses."""
        device = losses_B.device
        bins_B = (timesteps_B.to(device) * NUM_TIMESTEP_BINS).div(self._num_timesteps, rounding_mode="floor")
        sums = torch.zeros(2, NUM_TIMESTEP_BINS, dtype=torch.float64, device=device)
        sums[0].index_add_(0, bins_B, losses_B.detach().double())
        sums[1].index_add_(0, bins_B, torch.ones_like(bins_B, dtype=torch.float64))
        return sums

    def add(self, sums: Tensor) -> None:
        """Count sums of a batch or of all ranks."""
        self.sums += sums

    def take(self) -> dict[str, float]:
        """The means since the last call, by "0-99"; ranges without a row are left out."""
        means = {
            name: total / count for name, total, count in zip(self.names, *self.sums.tolist(), strict=True) if count
        }
        self.sums.zero_()
        return means
