"""Moving a ControlNet to another base: its weights go along with those that they were once copied from."""

from typing import Any

import torch

from controlmill.errors import WeightsUnusableError
from training.base_files import find_base
from training.base_model import BaseModel
from training.base_parts import load_network


def move_to_base(net: Any, *, old: str, base: BaseModel) -> None:
    """Add to each copied weight what the new base has more than the old one: p + (new - old).

    After `tool_transfer_control.py` of the official code; what has no counterpart in a base (hint network, zero
    convolutions) stays.

    Args:
        net: a ControlNetModel, float32; changed in place.
        old: the base that it was trained on.
        base: the one that it is to be used on.

    Raises:
        WeightsMissingError: the old base is not there.
        WeightsUnusableError: the two bases have not the same shapes.
    """
    old_state = load_network(find_base(old, parts=["unet"]), "unet", torch.float32).state_dict()
    unet = base.unet if base.unet.dtype == torch.float32 else load_network(base.files, "unet", torch.float32)
    new_state = unet.state_dict()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name not in new_state:
                continue
            if name not in old_state or old_state[name].shape != parameter.shape:
                raise WeightsUnusableError(f"transfer_from: {old} has not the shapes of the ControlNet: {name} differs")
            offset = new_state[name].to("cpu") - old_state[name]
            parameter.add_(offset.to(parameter.device))
