"""One ControlNet in files: made from a base, read from either layout, written in diffusers' layout."""

import importlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from controlmill.config.model import ModelOptions
from controlmill.errors import StorageWriteError, WeightsMissingError, WeightsUnusableError
from storage.weights.reference import WeightsFile
from storage.weights.resolve import resolve
from storage.weights.tensors import read_tensors
from training.base_files import read_json
from training.base_model import BaseModel
from training.base_parts import load_network, quiet_libraries
from training.hint import V1HintNetwork
from training.layouts import control_tensors, from_cldm, hint_channels
from training.tensor_file import write_tensors
from training.transfer import move_to_base

CONTROLNET_FOLDER = "controlnet"
"""Where a run and its checkpoints keep it."""
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
PICKLED_NAME = "diffusion_pytorch_model.bin"
_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")
_SINGLE_FILES = (".safetensors", ".pth", ".ckpt", ".pt", ".bin")
_OPTION = "controlnet_model_name_or_path"


def nets_in(folder: Path, number: int) -> Path:
    """Where the ControlNet of a number is: the first in `folder`, others beside it, as diffusers keeps several."""
    return folder if number == 0 else folder.with_name(f"{folder.name}_{number}")


def copy_of_encoder(base: BaseModel, channels: Sequence[int], num_channels: int) -> Any:
    """A ControlNetModel whose encoder and middle block are the base's, in float32 whatever the base is kept in."""
    unet = base.unet
    if unet.dtype != torch.float32:
        # the trained copy starts from what the file has, not from what half precision left of it
        unet = load_network(base.files, "unet", torch.float32)
    return _model_class().from_unet(
        unet, conditioning_embedding_out_channels=tuple(channels), conditioning_channels=num_channels
    )


def save_net(net: Any, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write `config.json` and the weights."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        config = json.loads(net.to_json_string())
        # where the weights once came from is no property of theirs
        config.pop("_name_or_path", None)
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageWriteError(f"{folder}: cannot write it: {error.strerror}") from error
    write_tensors(tensors, folder / WEIGHTS_NAME)


def load_net(folder: Path) -> Any:
    """A ControlNetModel from a folder in diffusers' layout, float32.

    Raises:
        WeightsMissingError: the folder or one of its files is not there.
        WeightsUnusableError: they hold something else, or do not fit each other.
    """
    for name in ("config.json", WEIGHTS_NAME):
        if not (folder / name).is_file() and not (name == WEIGHTS_NAME and (folder / PICKLED_NAME).is_file()):
            raise WeightsMissingError(f"ControlNet: {folder} has no {name}; a ControlNet in diffusers' layout has one")
    config = read_json(folder / "config.json")
    if config.get("_class_name", "ControlNetModel") != "ControlNetModel":
        raise WeightsUnusableError(f"ControlNet: {folder} holds a {config['_class_name']}, not a ControlNetModel")
    path = folder / WEIGHTS_NAME if (folder / WEIGHTS_NAME).is_file() else folder / PICKLED_NAME
    try:
        with quiet_libraries():
            net = _model_class().from_config(config)
    except (TypeError, ValueError, KeyError) as error:
        raise WeightsUnusableError(f"ControlNet: {folder}/config.json is no ControlNet's: {error}") from error
    if config.get("hint_network") == "v1":
        net.controlnet_cond_embedding = V1HintNetwork(
            net.config.block_out_channels[0], net.config.conditioning_channels
        )
        net.register_to_config(hint_network="v1")
    fill(net, read_tensors(path), str(path))
    return net


def use_v1_hint_network(net: Any) -> None:
    """Replace the network of hints by that of the article's text, and say so in `config.json`."""
    net.controlnet_cond_embedding = V1HintNetwork(net.config.block_out_channels[0], net.config.conditioning_channels)
    net.register_to_config(hint_network="v1")


def fill(net: Any, tensors: Mapping[str, Tensor], place: str) -> None:
    """Put tensors into a network that has exactly these, as float32.

    Raises:
        WeightsUnusableError: naming what is missing, superfluous or of another shape.
    """
    own = net.state_dict()
    lacks = sorted(own.keys() - tensors.keys())
    beyond = sorted(tensors.keys() - own.keys())
    other = sorted(name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape)
    problems = [
        f"{what} {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
        for what, names in (("lacks", lacks), ("has beyond it", beyond), ("has in another shape", other))
        if names
    ]
    if problems:
        raise WeightsUnusableError(f"ControlNet: {place} does not fit: it {'; it '.join(problems)}")
    net.load_state_dict({name: value.to(own[name].dtype) for name, value in tensors.items()})


def start_net(base: BaseModel, options: ModelOptions, num_channels: int, number: int = 0) -> Any:
    """The ControlNet that `controlnet_model_name_or_path` names, in either layout, moved to this base where asked for.

    Args:
        base: with its UNet.
        options: of the model.
        num_channels: of the hints that it takes.
        number: which of several; others than the first lie beside it.

    Raises:
        WeightsMissingError: it is not there, or there are fewer than conditions.
        WeightsUnusableError: it is of another kind of base, or takes another number of hints.
    """
    reference = str(options.controlnet_model_name_or_path)
    first = find_net(reference)
    place = nets_in(first, number)
    if number and (first.is_file() or not place.is_dir()):
        raise WeightsMissingError(
            f"{_OPTION}: {reference} has no ControlNet for condition {number + 1}: that of the first is {first.name}, "
            f"the others are in {first.name}_1, {first.name}_2 beside it, as a run of as many conditions leaves them"
        )
    net = load_net(place) if place.is_dir() else _from_single_file(place, base)
    check_fits(net, base, f"{_OPTION}: {reference}")
    if net.config.conditioning_channels != num_channels:
        raise WeightsUnusableError(
            f"{_OPTION}: {reference} takes hints of {net.config.conditioning_channels} channels, and this run's have "
            f"{num_channels}; see several_conditions"
        )
    if options.transfer_from is not None:
        move_to_base(net, old=options.transfer_from, base=base)
    return net.train()


def _from_single_file(path: Path, base: BaseModel) -> Any:
    """A ControlNet in the official code's layout, or in diffusers' without its configuration: that is the base's."""
    tensors = read_tensors(path)
    first = "controlnet_cond_embedding.conv_in.weight"
    if first in tensors:
        inner = [name for name in tensors if re.fullmatch(r"controlnet_cond_embedding\.blocks\.\d+\.weight", name)]
        channels = [tensors[first].shape[0], *(tensors[name].shape[0] for name in sorted(inner)[1::2])]
        net = copy_of_encoder(base, channels, tensors[first].shape[1])
    else:
        num_channels = control_tensors(tensors, str(path))["input_hint_block.0.weight"].shape[1]
        net = copy_of_encoder(base, hint_channels(tensors, str(path)), num_channels)
        tensors = from_cldm(tensors, net.state_dict(), str(path))
    fill(net, tensors, str(path))
    return net


def find_net(reference: str) -> Path:
    """A folder in diffusers' layout, or a single file in cldm's; from the hub what is not on this machine.

    Raises:
        WeightsMissingError: it is not there.
    """
    path = Path(reference).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix in _SINGLE_FILES):
        return path
    repository = _REPOSITORY.fullmatch(reference)
    if repository is None or path.suffix in _SINGLE_FILES:
        raise WeightsMissingError(
            f"{_OPTION}: there is no {reference}; give a folder in diffusers' layout, a single file "
            f"({', '.join(_SINGLE_FILES)}) in cldm's, or owner/name on the hub"
        )
    revision = repository[2] or "main"
    files = [
        WeightsFile(repository[1], "config.json", revision, unique_name=False),
        WeightsFile(repository[1], WEIGHTS_NAME, revision, unique_name=False, or_else=PICKLED_NAME),
    ]
    return resolve(files)[0].path.parent


def check_fits(net: Any, base: BaseModel, what: str) -> None:
    """Compare what decides about the shapes of a ControlNet and of a base.

    Args:
        net: a ControlNetModel.
        base: with its UNet.
        what: the option and its value, for the message.

    Raises:
        WeightsUnusableError: the ControlNet is for another kind of base.
    """
    for name in ("block_out_channels", "cross_attention_dim", "layers_per_block", "addition_embed_type"):
        theirs, ours = _plain(net.config[name]), _plain(base.unet.config[name])
        if theirs != ours:
            raise WeightsUnusableError(
                f"{what} is for another kind of base: its {name} is {theirs}, that of {base.files.reference} is {ours}"
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _model_class() -> Any:
    diffusers: Any = importlib.import_module("diffusers")
    return diffusers.ControlNetModel
