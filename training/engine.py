"""The ControlNets in DeepSpeed's hands, and nothing else: the frozen networks stay outside of ZeRO.

Legend: B batch, C channels, H W latent height and width, T numbers of a time id.
"""

import importlib
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from storage.filesystem import redact
from training.base_model import Residuals
from training.engine_files import only_tensors
from training.loss_scale import LossScale

if TYPE_CHECKING:
    from training.batch import PromptEmbeddings
    from training.controlnet import ControlNets

STATE_FOLDER = "deepspeed"
"""Folder of a checkpoint that DeepSpeed writes."""
_LOSS_SCALE = "controlmill_loss_scale"


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
    ) -> None:
        """Hand the ControlNets to DeepSpeed; torch.distributed must be initialised, by every rank.

        Args:
            controlnets: what is trained, on any device.
            optimizer: over their parameters; under `zero_force_ds_cpu_optimizer` its settings only are taken over.
            config: DeepSpeed's configuration, see `training.deepspeed_config`.
            device: of this rank.
        """
        deepspeed = import_deepspeed(device)
        self.controlnets = controlnets
        self.zero_stage = int(config.get("zero_optimization", {}).get("stage", 0))
        self._max_grad_norm = float(config.get("gradient_clipping", 0.0))
        # without ZeRO DeepSpeed clips and keeps the norm to itself: `_clip` does it
        settings = {**config, "gradient_clipping": self._max_grad_norm if self.zero_stage else 0.0}
        self._is_alone = torch.distributed.get_world_size() == 1
        made, *_ = deepspeed.initialize(
            model=_Flat(controlnets), optimizer=optimizer, config=settings, dist_init_required=False
        )
        self._engine: Any = made
        if self._is_alone and self.zero_stage == 0:
            # the sum over one rank would copy every gradient three times
            self._engine.enable_backward_allreduce = False
        self._was_skipped = False
        self.loss_scale = LossScale() if config.get("torch_autocast", {}).get("dtype") == "float16" else None
        """Of fp16; None under another precision."""
        if self.loss_scale is not None:
            self._engine.torch_autocast_z0_gradscaler = None
            self._engine.optimizer.torch_autocast_gradscaler = None
            self._set_loss_scale(self.loss_scale)

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
        """Add the gradients of a mean over rows; on the last of an update they are summed over ranks."""
        if self.loss_scale is not None and self.zero_stage == 0:
            loss = loss * self.loss_scale.value
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Clip, update the weights, forget the gradients; returns the gradients' norm before clipping.

        Under fp16 weights stay as they are where the norm is not finite, see `step_was_skipped`.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        clipped = self._clip() if self.zero_stage == 0 else None
        self._engine.step()
        found = self._engine.get_global_grad_norm() if clipped is None else clipped
        norm = float("nan") if found is None else float(found)
        if self.loss_scale is not None:
            explained = self.loss_scale.update(is_finite=math.isfinite(norm))
            self._was_skipped = explained and not math.isfinite(norm)
            self._set_loss_scale(self.loss_scale)
        return norm

    def _clip(self) -> Tensor:
        """Without ZeRO: gradients without their loss scale, clipped; none at all where they left the fp16 range."""
        if self.loss_scale is not None:
            gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
            torch._foreach_mul_(gradients, 1 / self.loss_scale.value)
        norm = nn.utils.clip_grad_norm_(self.parameters(), self._max_grad_norm or float("inf"))
        if self.loss_scale is not None and not math.isfinite(norm):
            # without a gradient an optimizer leaves weight and moments alone
            self._engine.zero_grad()
        return norm

    def _set_loss_scale(self, scale: LossScale) -> None:
        """Under ZeRO DeepSpeed multiplies losses by it, and divides norm and gradients."""
        if self.zero_stage:
            self._engine.optimizer.override_loss_scale(scale.value)

    @property
    def step_was_skipped(self) -> bool:
        """Whether the last step found the fp16 range left, and only made the loss scale smaller."""
        return self._was_skipped

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
        state = {} if self.loss_scale is None else {_LOSS_SCALE: self.loss_scale.state_dict()}
        self._engine.save_checkpoint(folder, tag=STATE_FOLDER, client_state=state, save_latest=False)

    def load(self, folder: str) -> None:
        """Take over the state that as many ranks saved (or its universal form); every rank must call it.

        Raises:
            RunUnusableError: there is more in it than tensors.
        """
        with only_tensors(redact(folder)):
            path, state = self._engine.load_checkpoint(folder, tag=STATE_FOLDER, load_lr_scheduler_states=False)
        if path is None:
            raise FileNotFoundError(f"{folder}/{STATE_FOLDER}")
        if self.loss_scale is not None and _LOSS_SCALE in state:
            self.loss_scale.load_state_dict(state[_LOSS_SCALE])
            self._set_loss_scale(self.loss_scale)

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
