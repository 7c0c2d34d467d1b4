"""The ControlNets in DeepSpeed's hands, and nothing else: the frozen networks stay outside of ZeRO.

Legend: B batch, C channels, H W latent height and width, T numbers of a time id.
"""

import importlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from training.base_model import Residuals

if TYPE_CHECKING:
    from training.batch import PromptEmbeddings
    from training.controlnet import ControlNets

STATE_FOLDER = "deepspeed"
"""Folder of a checkpoint that DeepSpeed writes."""


class _Flat(nn.Module):
    """The ControlNets with a tuple for their output, which DeepSpeed's hooks can walk through."""

    def __init__(self, controlnets: "ControlNets") -> None:
        super().__init__()
        self.controlnets = controlnets

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        residuals = self.controlnets(*inputs)
        return (*residuals.down, residuals.middle)


class Engine:
    """One DeepSpeed engine around the ControlNets: forward, backward, step, and its part of a checkpoint."""

    def __init__(
        self,
        controlnets: "ControlNets",
        optimizer: torch.optim.Optimizer,
        config: Mapping[str, Any],
        *,
        device: torch.device,
        max_grad_norm: float,
    ) -> None:
        """Hand the ControlNets to DeepSpeed; torch.distributed must be initialised, by every rank.

        Args:
            controlnets: what is trained, on any device.
            optimizer: over their parameters; under `zero_force_ds_cpu_optimizer` its settings only are taken over.
            config: DeepSpeed's configuration, see `training.deepspeed_config`.
            device: of this rank.
            max_grad_norm: gradients are clipped to it; 0 does not clip.
        """
        deepspeed = import_deepspeed(device)
        self.controlnets = controlnets
        self.zero_stage = int(config.get("zero_optimization", {}).get("stage", 0))
        self._max_grad_norm = max_grad_norm
        self._is_alone = torch.distributed.get_world_size() == 1
        made, *_ = deepspeed.initialize(
            model=_Flat(controlnets), optimizer=optimizer, config=dict(config), dist_init_required=False
        )
        self._engine: Any = made
        if self._is_alone and self.zero_stage == 0:
            # the sum over one rank would copy every gradient three times
            self._engine.enable_backward_allreduce = False

    def __call__(
        self,
        noisy_BCHW: Tensor,
        timesteps_B: Tensor,
        prompts: "PromptEmbeddings",
        hints: Sequence[Tensor],
        time_ids_BT: Tensor | None = None,
    ) -> Residuals:
        """What the ControlNets add to the base; every rank must call it as often."""
        *down, middle = self._engine(noisy_BCHW, timesteps_B, prompts, hints, time_ids_BT)
        return Residuals(tuple(down), middle)

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Add the gradients of a loss that is scaled already; on the last of an update they are summed over ranks."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Clip, update the weights, forget the gradients; returns the gradients' norm before clipping."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = self._clip() if self.zero_stage == 0 else None
        self._engine.step()
        if norm is None:
            norm = self._engine.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)

    def _clip(self) -> Tensor:
        scaler = self._engine.torch_autocast_z0_gradscaler
        if scaler is not None:
            scaler.unscale_(self._engine.optimizer)
        return nn.utils.clip_grad_norm_(self.parameters(), self._max_grad_norm or float("inf"))

    @property
    def step_was_skipped(self) -> bool:
        """Whether the last step found the fp16 range left, and only made the loss scale smaller."""
        return not self._engine.was_step_applied()

    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters, in a fixed order; under ZeRO-3 each holds a partition only."""
        return [parameter for parameter in self.controlnets.parameters() if parameter.requires_grad]

    def local_tensors(self) -> list[Tensor]:
        """What this rank holds of each parameter: all of it, or under ZeRO-3 its partition."""
        return [getattr(parameter, "ds_tensor", parameter).data for parameter in self.parameters()]

    def whole(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Tensors like the parameters (on the CPU) from what every rank holds of each; every rank must call it.

        Args:
            parts: of this rank, as `local_tensors` gives them.
        """
        if self.zero_stage < 3:
            return [part.detach().cpu() for part in parts]
        wholes = []
        for parameter, part in zip(self.parameters(), parts, strict=True):
            pieces = [torch.empty_like(part) for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather(pieces, part.contiguous())
            shape: Any = getattr(parameter, "ds_shape")  # noqa: B009 an attribute that DeepSpeed adds
            wholes.append(torch.cat(pieces)[: shape.numel()].view(shape).cpu())
        return wholes

    def part(self, wholes: Sequence[Tensor]) -> list[Tensor]:
        """What this rank holds of tensors like the parameters: the inverse of `whole`."""
        if self.zero_stage < 3:
            return list(wholes)
        rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        parts = []
        for local, tensor in zip(self.local_tensors(), wholes, strict=True):
            flat = torch.zeros(local.numel() * world_size, dtype=tensor.dtype)
            flat[: tensor.numel()] = tensor.flatten()
            parts.append(flat[rank * local.numel() : (rank + 1) * local.numel()])
        return parts

    @contextmanager
    def gathered(self, parameters: Iterable[nn.Parameter] | None = None, *, modified: bool = False) -> Iterator[None]:
        """Inside of the `with` block the parameters (by default all) are whole on every rank; every rank must enter.

        Args:
            parameters: which ones.
            modified: whether rank 0 changes them, for all ranks.
        """
        if self.zero_stage < 3:
            yield
            return
        deepspeed: Any = importlib.import_module("deepspeed")
        wanted = list(self.controlnets.parameters() if parameters is None else parameters)
        with deepspeed.zero.GatheredParameters(wanted, modifier_rank=0 if modified else None):
            yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """No gradients and no training behaviour inside of the `with` block."""
        self._engine.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self._engine.train()

    def save(self, folder: str) -> None:
        """Write this rank's part of the state into a folder that is there; every rank must call it."""
        self._engine.save_checkpoint(folder, tag=STATE_FOLDER, client_state={}, save_latest=False)

    def load(self, folder: str) -> None:
        """Take over the state that as many ranks saved (or its universal form); every rank must call it."""
        path, _ = self._engine.load_checkpoint(folder, tag=STATE_FOLDER, load_lr_scheduler_states=False)
        if path is None:
            raise FileNotFoundError(f"{folder}/{STATE_FOLDER}")

    def close(self) -> None:
        """Let go of memory and hooks."""
        self._engine.destroy()


def import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed, told before its import which kind of device it works on, and silent but for warnings."""
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    deepspeed: Any = importlib.import_module("deepspeed")
    deepspeed.utils.logger.setLevel(logging.WARNING)
    # a sum through shared memory for CPUs, which DeepSpeed would compile for minutes at the first start; gloo sums
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
