"""The ControlNets that are trained: one per condition with summed outputs, or one for all.

Shapes: B batch, C channels, H W height and width of latents; hints are 8 times as large. T numbers of a time id.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from controlmill.config.model import ModelOptions
from training.base_model import BaseModel, Residuals, added_conditions
from training.batch import PromptEmbeddings
from training.hint import initialise
from training.net_files import copy_of_encoder, load_net, nets_in, save_net, start_net, use_v1_hint_network

Group = Literal["connections", "copy", "hint_output", "hint_inner"]


class ControlNets(nn.Module):
    """All ControlNets of a run, on one base; the module that the optimizer and DeepSpeed see, and nothing else."""

    def __init__(self, nets: Sequence[nn.Module], *, connect_decoder: bool = True) -> None:
        """Put together.

        Args:
            nets: diffusers' ControlNetModels; several take one hint each, one takes all of them stacked.
            connect_decoder: whether the outputs go to the decoder's skip connections too, not to the middle only; may
                be changed at any time.
        """
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.connect_decoder = connect_decoder

    def forward(
        self,
        noisy_BCHW: Tensor,
        timesteps_B: Tensor,
        prompts: PromptEmbeddings,
        hints: Sequence[Tensor],
        time_ids_BT: Tensor | None = None,
    ) -> Residuals:
        """The summed outputs for hints in [0, 1], one (B, 3, 8H, 8W) per condition."""
        first, *others = self.each(noisy_BCHW, timesteps_B, prompts, hints, time_ids_BT)
        for other in others:
            first = first.added(other)
        return first

    def each(
        self,
        noisy_BCHW: Tensor,
        timesteps_B: Tensor,
        prompts: PromptEmbeddings,
        hints: Sequence[Tensor],
        time_ids_BT: Tensor | None = None,
    ) -> list[Residuals]:
        """The outputs of each ControlNet."""
        taken = self._split(hints)
        return [
            self._one(net, noisy_BCHW, timesteps_B, prompts, hint, time_ids_BT)
            for net, hint in zip(self.nets, taken, strict=True)
        ]

    def _one(
        self,
        net: Any,
        noisy_BCHW: Tensor,
        timesteps_B: Tensor,
        prompts: PromptEmbeddings,
        hint_BCHW: Tensor,
        time_ids_BT: Tensor | None,
    ) -> Residuals:
        weight = net.conv_in.weight
        down, middle_BCHW = net(
            noisy_BCHW.to(weight.device, weight.dtype),
            timesteps_B.to(weight.device),
            prompts.hidden_BLD.to(weight.device, weight.dtype),
            hint_BCHW.to(weight.device, weight.dtype),
            added_cond_kwargs=added_conditions(prompts, time_ids_BT, weight.device, weight.dtype),
            return_dict=False,
        )
        return Residuals(tuple(down) if self.connect_decoder else (), middle_BCHW)

    def _split(self, hints: Sequence[Tensor]) -> Sequence[Tensor]:
        if len(self.nets) > 1 or len(hints) == 1:
            return hints
        return [torch.cat(tuple(hints), dim=1)]

    @property
    def num_conditions(self) -> int:
        """Hints that `forward` takes."""
        first: Any = self.nets[0]
        return len(self.nets) if len(self.nets) > 1 else int(first.config.conditioning_channels) // 3

    def groups(self) -> dict[Group, dict[str, nn.Parameter]]:
        """Parameters by what they do, with their names.

        With zero convolutions, gradients first reach "connections" (the zero convolutions of the outputs) at update 1,
        "copy" and "hint_output" (the zero convolution of the hint) at update 2, and "hint_inner" at update 3.
        """
        groups: dict[Group, dict[str, nn.Parameter]] = {
            "connections": {}, "copy": {}, "hint_output": {}, "hint_inner": {}
        }  # fmt: skip
        for name, parameter in self.named_parameters():
            groups[_group_of(name)][name] = parameter
        return groups

    def zero_convolutions(self) -> dict[str, nn.Parameter]:
        """Weights and biases of all zero convolutions by name: those of the outputs and those of the hints."""
        groups = self.groups()
        return groups["connections"] | groups["hint_output"]

    def hint_networks(self) -> list[nn.Module]:
        """The network E(.) of each ControlNet."""
        nets: list[Any] = list(self.nets)
        return [net.controlnet_cond_embedding for net in nets]

    def enable_gradient_checkpointing(self) -> None:
        """Compute activations a second time in the backward pass instead of keeping them."""
        nets: list[Any] = list(self.nets)
        for net in nets:
            net.enable_gradient_checkpointing()

    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write diffusers' layout: the first ControlNet to `folder`, more to `folder_1`, `folder_2` beside it.

        That is how diffusers' MultiControlNetModel keeps several.

        Args:
            folder: "RUN/controlnet".
            state: all tensors of this module's `state_dict()`, where the module itself does not have them (ZeRO-3), or
                others are to be written (EMA).
        """
        tensors = dict(self.state_dict() if state is None else state)
        for number, net in enumerate(self.nets):
            prefix = f"nets.{number}."
            own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            save_net(net, own, nets_in(folder, number))

    @classmethod
    def load(cls, folder: Path, *, connect_decoder: bool = True) -> "ControlNets":
        """Read what `save` wrote, or a ControlNet from elsewhere in diffusers' layout.

        Raises:
            WeightsMissingError: it is not there.
            WeightsUnusableError: a file holds something else.
        """
        nets = [load_net(folder)]
        while (more := nets_in(folder, len(nets))).is_dir():
            nets.append(load_net(more))
        return cls(nets, connect_decoder=connect_decoder)


def create(base: BaseModel, options: ModelOptions, seed: int, num_conditions: int = 1) -> ControlNets:
    """Make the ControlNets of a run: the base's encoder and middle block copied, or those to start from.

    Args:
        base: with its UNet.
        options: of the model.
        seed: of every weight that is drawn.
        num_conditions: layers that hints come from.

    Raises:
        WeightsMissingError: the ControlNet to start from is not there.
        WeightsUnusableError: it does not fit the base.
    """
    is_stacked = options.several_conditions == "stack" and num_conditions > 1
    nets = []
    for number in range(1 if is_stacked else num_conditions):
        own_seed = seed + number
        num_channels = 3 * num_conditions if is_stacked else 3
        if options.controlnet_model_name_or_path is None:
            nets.append(_new(base, options, own_seed, num_channels))
        else:
            nets.append(start_net(base, options, num_channels, number))
    return ControlNets(nets, connect_decoder=not options.only_mid_control)


def _new(base: BaseModel, options: ModelOptions, seed: int, num_channels: int) -> Any:
    # torch's initialisation draws from the global state: set for this, and put back after it
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = copy_of_encoder(base, options.hint_channels, num_channels)
        if options.hint_network == "v1":
            use_v1_hint_network(net)
    initialise(net.controlnet_cond_embedding, options.hint_init, options.hint_gain, seed=seed)
    if options.connection_init == "gaussian":
        _make_gaussian(net, seed)
    return net.train()


def _make_gaussian(net: Any, seed: int) -> None:
    """Ordinary convolutions instead of zero ones, of variance-preserving Gaussian weights (the paper's ablation)."""
    generator = torch.Generator().manual_seed(seed + 1)
    layers = [*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out]
    with torch.no_grad():
        for layer in layers:
            spread = 1 / math.sqrt(layer.weight[0].numel())
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * spread)


def _group_of(name: str) -> Group:
    if ".controlnet_down_blocks." in name or ".controlnet_mid_block." in name:
        return "connections"
    if ".controlnet_cond_embedding." in name:
        return "hint_output" if ".conv_out." in name else "hint_inner"
    return "copy"
