"""What is trained: the base, and the ControlNets on it. Names follow diffusers' train_controlnet.py."""

from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from controlmill.config.base import Options


class ModelOptions(Options):
    """The base and the ControlNets on it."""

    pretrained_model_name_or_path: str = Field(min_length=1)
    """Base: a Stable Diffusion in diffusers' layout, as a folder, or owner/name or owner/name@revision on the hub."""
    revision: str | None = None
    """Commit, branch or tag of the base on the hub."""
    variant: str | None = None
    """Kind of the base's files, as "fp16" of diffusion_pytorch_model.fp16.safetensors; plain ones where it has none."""
    controlnet_model_name_or_path: str | None = None
    """ControlNet to start from: a folder in diffusers' layout, a single file in cldm's, or owner/name on the hub."""
    transfer_from: str | None = None
    """Base that this ControlNet was trained on, where it is another one: the weights are moved by what differs."""
    several_conditions: Literal["sum", "stack"] = "sum"
    """One ControlNet per condition, outputs summed, or one for all, whose hint has 3 channels per condition."""
    only_mid_control: bool = False
    """Connect only the middle block, not the decoder's skip connections, until on_following says connect_decoder."""
    hint_network: Literal["official", "v1"] = "official"
    """What turns hints into features: the official code's 8 convolutions, or the 4 that the article's text has."""
    hint_channels: tuple[PositiveInt, ...] = (16, 32, 96, 256)
    """Channels of the official hint network, where one is made anew."""
    hint_init: Literal["default", "kaiming"] = "default"
    """Initial weights of the hint network: torch's, or variance-preserving ones with no bias; its last stays zero."""
    hint_gain: PositiveFloat = 1.3
    """Factor on the weights of hint_init kaiming."""
    connection_init: Literal["zero", "gaussian"] = "zero"
    """Initial weights of the zero convolutions; gaussian is the ablation of the ControlNet paper."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.transfer_from is not None and self.controlnet_model_name_or_path is None:
            raise ValueError("transfer_from: goes with controlnet_model_name_or_path, which it is about")
        if len(self.hint_channels) != 4:
            raise ValueError(f"hint_channels: 4 numbers make the 8 convolutions, not {len(self.hint_channels)}")
        return self
