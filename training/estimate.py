"""What a run takes of a worker's memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from controlmill.config import TrainConfig
    from training.base_model import BaseModel
    from training.controlnet import ControlNets

_FLOAT_BYTES = 4
_NUM_MOMENTS = 2


@dataclass(frozen=True, slots=True)
class Cost:
    """What one forward and backward pass took."""

    flops_per_image: float
    seconds_per_image: float
    peak_bytes: int | None
    """Of the GPU's memory, weights and gradients included; None on a CPU."""


def memory_bytes(
    config: "TrainConfig", base: "BaseModel", controlnets: "ControlNets", cost: Cost, device: torch.device
) -> tuple[int, int | None]:
    """Bytes that a worker will need, and those that its device has (None on a CPU)."""
    trained = sum(parameter.numel() for parameter in controlnets.parameters() if parameter.requires_grad)
    added = optimizer_bytes(trained, config) + average_bytes(trained, config) + decoder_bytes(base, config)
    if cost.peak_bytes is None:
        text: nn.Module | None = None if base.text is None else base.text.encoders
        parts: list[nn.Module] = [part for part in (base.unet, base.vae, text) if part is not None]
        frozen = sum(num_bytes(part.parameters()) for part in parts)
        return frozen + 2 * num_bytes(controlnets.parameters()) + added, None
    return cost.peak_bytes + added, torch.cuda.get_device_properties(device).total_memory


def optimizer_bytes(num_trained: int, config: "TrainConfig") -> int:
    """Bytes of the optimizer on a worker: two moments, and under ZeRO a flat copy of its weights too."""
    moments = _NUM_MOMENTS * (1 if config.use_8bit_adam else _FLOAT_BYTES)
    if config.zero_stage == 0:
        return num_trained * moments
    if config.offload_optimizer != "none":
        return 0
    return num_trained * (moments + _FLOAT_BYTES) // config.num_workers


def average_bytes(num_trained: int, config: "TrainConfig") -> int:
    """Bytes of the averaged weights (EMA) on a worker."""
    if not config.use_ema:
        return 0
    return num_trained * _FLOAT_BYTES // (config.num_workers if config.zero_stage == 3 else 1)


def decoder_bytes(base: "BaseModel", config: "TrainConfig") -> int:
    """Bytes that training the base's decoder takes: the UNet in float32, gradients and moments of the decoder."""
    if not (
        config.trains_decoder or any("unlock_base" in actions for actions in (config.on_following, config.on_settled))
    ):
        return 0
    parameters: Iterable[Tensor] = base.unet.parameters()
    wider = sum(value.numel() * (_FLOAT_BYTES - value.element_size()) for value in parameters)
    num_open = sum(value.numel() for value in base.decoder_parameters().values())
    return wider + num_open * (_FLOAT_BYTES + _NUM_MOMENTS * (1 if config.use_8bit_adam else _FLOAT_BYTES))


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
