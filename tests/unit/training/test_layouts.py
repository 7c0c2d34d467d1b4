"""From diffusers' names to those of the official code and back, bit for bit, and as diffusers itself reads them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

from controlmill.config.model import ModelOptions
from controlmill.errors import WeightsUnusableError
from controlmill.testing.tiny_sd import Kind
from training.base_model import BaseModel
from training.controlnet import create
from training.layouts import cldm_names, from_cldm, hint_channels, to_cldm

Tiny = Callable[..., Path]


def weights(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    options = ModelOptions(pretrained_model_name_or_path=str(folder), connection_init="gaussian")
    net = create(BaseModel.load(str(folder), parts=["unet"]), options, 0).nets[0]
    return net.state_dict(), dict(net.config)  # type: ignore[call-overload]


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_there_and_back_is_the_same_bit_for_bit(kind: Kind, tiny_sd: Tiny) -> None:
    tensors, config = weights(tiny_sd(kind))
    there = to_cldm(tensors)
    assert len(there) == len(tensors)
    back = from_cldm(there, tensors, "a file")
    assert list(back) == list(tensors)
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert hint_channels(there, "a file") == (16, 32, 96, 256)
    theirs = convert_controlnet_checkpoint(dict(there), config)
    assert all(torch.equal(value, tensors[name]) for name, value in theirs.items())
    # diffusers 0.42 reads everything but SDXL's size embedding, for which only its reader of UNets knows the names
    left = tensors.keys() - theirs.keys()
    assert left == {name for name in tensors if name.startswith("add_embedding")}


def test_names_are_those_of_the_official_code(tiny_sd: Tiny) -> None:
    names = cldm_names(list(weights(tiny_sd("sd1"))[0]))
    expected = {
        "conv_in.weight": "input_blocks.0.0.weight",
        "time_embedding.linear_2.bias": "time_embed.2.bias",
        "down_blocks.0.resnets.0.norm1.weight": "input_blocks.1.0.in_layers.0.weight",
        "down_blocks.0.attentions.1.proj_in.weight": "input_blocks.2.1.proj_in.weight",
        "down_blocks.0.downsamplers.0.conv.weight": "input_blocks.3.0.op.weight",
        "down_blocks.1.resnets.0.conv_shortcut.bias": "input_blocks.4.0.skip_connection.bias",
        "down_blocks.3.resnets.1.conv2.weight": "input_blocks.11.0.out_layers.3.weight",
        "mid_block.resnets.1.time_emb_proj.weight": "middle_block.2.emb_layers.1.weight",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight":
            "middle_block.1.transformer_blocks.0.attn2.to_k.weight",
        "controlnet_down_blocks.11.weight": "zero_convs.11.0.weight",
        "controlnet_mid_block.bias": "middle_block_out.0.bias",
        "controlnet_cond_embedding.conv_in.weight": "input_hint_block.0.weight",
        "controlnet_cond_embedding.blocks.5.bias": "input_hint_block.12.bias",
        "controlnet_cond_embedding.conv_out.weight": "input_hint_block.14.weight",
    }  # fmt: skip
    assert {name: names[name] for name in expected} == expected


def test_a_base_beside_the_controlnet_is_left_out(tiny_sd: Tiny) -> None:
    tensors, _ = weights(tiny_sd("sd1"))
    there = to_cldm(tensors) | {"model.diffusion_model.out.2.bias": torch.zeros(4)}
    assert from_cldm(there, tensors, "a file").keys() == tensors.keys()


def test_what_does_not_fit_is_named(tiny_sd: Tiny) -> None:
    tensors, _ = weights(tiny_sd("sd1"))
    there = to_cldm(tensors)
    with pytest.raises(WeightsUnusableError, match=r"lacks zero_convs\.3\.0\.bias"):
        from_cldm({name: v for name, v in there.items() if name != "control_model.zero_convs.3.0.bias"}, tensors, "f")
    with pytest.raises(WeightsUnusableError, match=r"has label_emb\.0\.0\.bias beyond it"):
        from_cldm(there | {"control_model.label_emb.0.0.bias": torch.zeros(1)}, tensors, "f")
    with pytest.raises(WeightsUnusableError, match=r"x\.pth is no ControlNet of the official code"):
        from_cldm({"weight": torch.zeros(1)}, tensors, "x.pth")
    with pytest.raises(WeightsUnusableError, match="only what differs from a base"):
        from_cldm(there | {"control_model.difference": torch.zeros(0)}, tensors, "f")
    with pytest.raises(WeightsUnusableError, match=r"class_embedding\.weight has no name"):
        to_cldm({"class_embedding.weight": torch.zeros(1)})
