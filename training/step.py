"""From a batch to losses: latents, noise, residuals, prediction, in the precision of the run.

Legend: B batch, C channels, H W latent height and width.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from training import draws
from training.batch import PromptEmbeddings, as_stored

if TYPE_CHECKING:
    from training.base_model import BaseModel, Residuals
    from training.batch import Batch
    from training.objective import Objective

Control = Callable[..., "Residuals"]
"""Called as `ControlNets`: the engine, or the bare module."""


@dataclass(frozen=True, slots=True)
class RowLosses:
    """The outcome of one batch of one rank."""

    losses_B: Tensor
    """float32, with the graph behind them."""
    timesteps_B: Tensor
    keys: tuple[str, ...]


class Step:
    """The computation of one batch."""

    def __init__(
        self,
        base: "BaseModel",
        objective: "Objective",
        *,
        seed: int,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[object]],
        rounds: bool = False,
    ) -> None:
        """Put together what a batch goes through.

        Args:
            base: the frozen model, on `device`.
            objective: timesteps, noise, loss.
            seed: of what is drawn for each row.
            device: of this rank.
            autocast: the precision of the ControlNets' arithmetic.
            rounds: whether what is encoded on the way is rounded as a cached layer stores it.
        """
        self._base = base
        self._objective = objective
        self._seed = seed
        self._device = device
        self._autocast = autocast
        self._rounds = rounds

    def losses(
        self, batch: "Batch", control: Control, *, connect_decoder: bool = True, timesteps_alike: bool = False
    ) -> RowLosses:
        """The loss of each row.

        Args:
            batch: on the CPU.
            control: makes the residuals.
            connect_decoder: whether the skip connections of the decoder get theirs, or the middle block only.
            timesteps_alike: whether all timesteps are drawn alike, whatever the options prefer.
        """
        placed = batch.to(self._device)
        with torch.no_grad():
            latents_BCHW = self.latents(placed)
            shape_CHW = tuple(latents_BCHW.shape[1:])
            drawn = self._objective.draw(self._seed, batch.epochs, batch.keys, shape_CHW, alike=timesteps_alike)
            noise_BCHW = drawn.noise_BCHW.to(self._device, non_blocking=True)
            timesteps_B = drawn.timesteps_B.to(self._device, non_blocking=True)
            noisy_BCHW = self._base.add_noise(latents_BCHW, noise_BCHW, timesteps_B)
            target_BCHW = self._base.target(latents_BCHW, noise_BCHW, timesteps_B)
            prompts = self.prompts(placed)
        with self._autocast():
            residuals = control(noisy_BCHW, timesteps_B, prompts, placed.hints, placed.time_ids_BT)
        if not connect_decoder:
            # a factor instead of a gap, so that every parameter has a gradient, which is zero
            residuals = residuals._replace(down=tuple(0.0 * down_BCHW for down_BCHW in residuals.down))
        with self._autocast() if self._base.unet.dtype == torch.float32 else nullcontext():
            predicted_BCHW = self._base.predict(noisy_BCHW, timesteps_B, prompts, residuals, placed.time_ids_BT)
        return RowLosses(self._objective.losses(predicted_BCHW, target_BCHW, timesteps_B), timesteps_B, batch.keys)

    def latents(self, batch: "Batch") -> Tensor:
        """A sample of each row's posterior, drawn anew for each epoch, scaled as the base wants it; float32."""
        mean_BCHW, std_BCHW = batch.latent_mean_BCHW, batch.latent_std_BCHW
        if mean_BCHW is None or std_BCHW is None:
            if batch.pixels_BCHW is None:
                raise ValueError("a batch has neither latents nor pixels")
            mean_BCHW, std_BCHW = self._base.encode_pixels(batch.pixels_BCHW)
            if self._rounds:
                mean_BCHW, std_BCHW = as_stored(mean_BCHW), as_stored(std_BCHW)
        noise_BCHW = draws.normal(self._seed, batch.epochs, batch.keys, "posterior", tuple(mean_BCHW.shape[1:]))
        return self._base.sample_latents(mean_BCHW, std_BCHW, noise_BCHW.to(self._device, non_blocking=True))

    def prompts(self, batch: "Batch") -> "PromptEmbeddings":
        """What the text encoders make of the prompts, where the batch does not bring it."""
        if batch.embeddings is not None:
            return batch.embeddings
        made = self._base.encode_prompts(batch.prompts)
        if not self._rounds:
            return made
        pooled_BD = None if made.pooled_BD is None else as_stored(made.pooled_BD)
        return PromptEmbeddings(as_stored(made.hidden_BLD), pooled_BD)
