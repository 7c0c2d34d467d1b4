"""Training the base's decoder and output beside the ControlNet: `sd_locked=False`, `unlock_at_step`.

They have an AdamW of their own, outside of ZeRO, so that nothing is computed or kept for them before they are unlocked.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn

from training.base_parts import load_network, quiet_libraries
from training.optimizer import make_optimizer

if TYPE_CHECKING:
    from controlmill.config import TrainConfig
    from training.base_model import BaseModel

UNET_FOLDER = "unet"
"""Folder of a run for the base's UNet with the decoder that was trained."""
DECODER_FILE = "decoder.pt"
"""File of a checkpoint for the trained decoder and its moments."""


class DecoderTraining:
    """The unlocked part of the base; every rank holds all of it."""

    def __init__(self, base: "BaseModel", config: "TrainConfig") -> None:
        """Unlock it: from here on its parameters get gradients."""
        if base.unet.dtype != torch.float32:
            # updates of 2e-6 would be rounded away in bfloat16; autocast keeps its speed. It begins with what the file
            # has, not with what half precision left of it
            exact = load_network(base.files, "unet", torch.float32)
            base.unet.float().load_state_dict(exact.state_dict())
        self._parameters: list[nn.Parameter] = list(base.unlock_decoder().values())
        self._max_grad_norm = config.max_grad_norm
        self._learning_rate = config.decoder_learning_rate
        self._optimizer = make_optimizer(config, self._parameters, self._learning_rate)

    def step(self, factor: float) -> None:
        """Average the gradients over the ranks, clip, update, forget them.

        Args:
            factor: on `decoder_learning_rate`, as the schedule has it.
        """
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if dist.get_world_size() > 1:
            for gradient in gradients:
                dist.all_reduce(gradient)
                gradient.div_(dist.get_world_size())
        if self._max_grad_norm:
            nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate * factor
        self._optimizer.step()
        self._optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Weights and moments, the same on every rank."""
        return {
            "weights": [parameter.detach() for parameter in self._parameters],
            "optimizer": self._optimizer.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        for parameter, saved in zip(self._parameters, state["weights"], strict=True):
            parameter.copy_(saved)
        self._optimizer.load_state_dict(state["optimizer"])


def trained_beside(controlnet: Path) -> Path | None:
    """What holds the decoder that was trained with a ControlNet of a run or a checkpoint; None where there is none."""
    places = (controlnet.parent / UNET_FOLDER, controlnet.parent / DECODER_FILE)
    return next((place for place in places if place.exists()), None)


@torch.no_grad()
def take_over(base: "BaseModel", trained: Path) -> None:
    """Give the base the decoder that a run has trained.

    Args:
        base: the one that the run trained on, with its UNet.
        trained: `RUN/unet`, or `decoder.pt` of a checkpoint.
    """
    if trained.is_dir():
        with quiet_libraries():
            unet = type(base.unet).from_pretrained(trained, torch_dtype=base.dtype, low_cpu_mem_usage=False)
        base.unet = unet.to(base.device).eval().requires_grad_(False)
        return
    state: dict[str, Any] = torch.load(trained, map_location="cpu", weights_only=True)
    for parameter, saved in zip(base.decoder_parameters().values(), state["weights"], strict=True):
        parameter.copy_(saved)
