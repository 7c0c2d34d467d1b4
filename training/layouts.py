"""The two layouts of a ControlNet's weights: diffusers' names, and those of the official code ("cldm").

Both hold the same tensors in the same shapes; only names differ. The official code keeps SD 1.x and 2.x so; SDXL's
names are those of its UNet in the generative-models repository, which diffusers' own reader of such files expects too.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from controlmill.errors import WeightsUnusableError

PREFIX = "control_model."
"""Before every name of a ControlNet in a file of the official code, which may hold the base too."""

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_SINGLE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "controlnet_mid_block": "middle_block_out.0",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
}
_PARTS = {"resnets": 0, "attentions": 1, "downsamplers": 0}


def to_cldm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a ControlNetModel under the official code's names, "control_model." before each.

    Raises:
        WeightsUnusableError: a name has no counterpart.
    """
    names = list(tensors)
    return {PREFIX + name: tensors[own] for own, name in cldm_names(names).items()}


def from_cldm(tensors: Mapping[str, Tensor], names: Iterable[str], place: str) -> dict[str, Tensor]:
    """The tensors of a file of the official code under diffusers' names.

    Args:
        tensors: of the file; those of a base beside the ControlNet are left out.
        names: of the ControlNetModel that it is to fit: its `state_dict()`.
        place: the file, for messages.

    Raises:
        WeightsUnusableError: the file lacks a tensor, has others, or is of another kind.
    """
    own = control_tensors(tensors, place)
    wanted = cldm_names(list(names))
    lacks = sorted(name for name in wanted.values() if name not in own)
    beyond = sorted(own.keys() - set(wanted.values()))
    if lacks or beyond:
        text = f"lacks {', '.join(lacks[:3])}" if lacks else f"has {', '.join(beyond[:3])} beyond it"
        raise WeightsUnusableError(f"ControlNet: {place} does not fit the base: it {text}")
    return {name: own[other] for name, other in wanted.items()}


def control_tensors(tensors: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
    """The ControlNet's tensors of a file of the official code, without prefix.

    Raises:
        WeightsUnusableError: there is no whole ControlNet in it.
    """
    own = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
    own = own or dict(tensors)
    if "difference" in own:
        raise WeightsUnusableError(
            f"ControlNet: {place} holds only what differs from a base; take the file with the whole ControlNet"
        )
    if "input_hint_block.0.weight" not in own:
        raise WeightsUnusableError(
            f"ControlNet: {place} is no ControlNet of the official code: there is no {PREFIX}input_hint_block.0.weight"
        )
    return own


def hint_channels(tensors: Mapping[str, Tensor], place: str) -> tuple[int, ...]:
    """Channels of the hint network of a file of the official code, as diffusers counts them: (16, 32, 96, 256)."""
    own = control_tensors(tensors, place)
    layers = sorted(int(found[1]) for name in own if (found := re.fullmatch(r"input_hint_block\.(\d+)\.weight", name)))
    return tuple(int(own[f"input_hint_block.{layer}.weight"].shape[0]) for layer in layers[:-1:2])


def cldm_names(names: list[str]) -> dict[str, str]:
    """For each name of a ControlNetModel that of the official code, without prefix.

    Raises:
        WeightsUnusableError: a name has no counterpart.
    """
    firsts = {int(found[1]) for name in names if (found := re.match(r"down_blocks\.0\.resnets\.(\d+)\.", name))}
    hints = {
        int(found[1]) for name in names if (found := re.match(r"controlnet_cond_embedding\.blocks\.(\d+)\.", name))
    }
    return {name: _cldm_name(name, len(firsts), len(hints)) for name in names}


def _cldm_name(name: str, num_layers: int, num_hint_blocks: int) -> str:
    stem, _, ending = name.rpartition(".")
    if stem in _SINGLE:
        return f"{_SINGLE[stem]}.{ending}"
    if stem == "controlnet_cond_embedding.conv_out":
        return f"input_hint_block.{2 * num_hint_blocks + 2}.{ending}"
    if found := re.fullmatch(r"controlnet_cond_embedding\.blocks\.(\d+)", stem):
        # an activation stands between two convolutions, and counts
        return f"input_hint_block.{2 * int(found[1]) + 2}.{ending}"
    if found := re.fullmatch(r"controlnet_down_blocks\.(\d+)", stem):
        return f"zero_convs.{found[1]}.0.{ending}"
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
        number = 1 if found[1] == "attentions" else 2 * int(found[2])
        return f"middle_block.{number}.{_inside(found[1], found[3])}"
    if found := re.fullmatch(r"down_blocks\.(\d+)\.(resnets|attentions|downsamplers)\.(\d+)\.(.+)", name):
        level, part, layer = int(found[1]), found[2], int(found[3])
        layer = num_layers if part == "downsamplers" else layer
        return f"input_blocks.{1 + level * (num_layers + 1) + layer}.{_PARTS[part]}.{_inside(part, found[4])}"
    raise WeightsUnusableError(
        f"ControlNet: {name} has no name in the official code's layout; export it in diffusers' layout"
    )


def _inside(part: str, name: str) -> str:
    if part == "attentions":
        return name
    stem, _, ending = name.rpartition(".")
    return f"{'op' if part == 'downsamplers' else _RESNET[stem]}.{ending}"
