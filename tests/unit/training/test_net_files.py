"""Starting from a ControlNet in either layout, or a clear refusal; and moving it to another base."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from controlmill.config import validate
from controlmill.config.model import ModelOptions
from controlmill.errors import ConfigError, WeightsMissingError, WeightsUnusableError
from training.base_model import BaseModel
from training.controlnet import ControlNets, create
from training.layouts import to_cldm

Tiny = Callable[..., Path]


@functools.cache
def loaded(folder: Path) -> BaseModel:
    """A base, loaded once: no test of this file changes one."""
    return BaseModel.load(str(folder), parts=["unet"])


def start(base: Path, given: Path | str | None, num_conditions: int = 1, **changes: object) -> ControlNets:
    values = {"pretrained_model_name_or_path": str(base), "controlnet_model_name_or_path": given and str(given)}
    options = ModelOptions.model_validate(values | changes)
    return create(loaded(base), options, 7, num_conditions)


@pytest.fixture
def trained(tiny_sd: Tiny, tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A ControlNet on the first base, in a folder, and its tensors."""
    nets = start(tiny_sd("sd1"), None, connection_init="gaussian", hint_channels=(4, 8, 8, 16))
    nets.save(tmp_path / "trained")
    return tmp_path / "trained", nets.nets[0].state_dict()


def same(nets: ControlNets, tensors: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, tensors[name]) for name, value in nets.nets[0].state_dict().items())


def test_a_folder_of_diffusers_is_gone_on_with(trained: tuple[Path, dict[str, torch.Tensor]], tiny_sd: Tiny) -> None:
    assert same(start(tiny_sd("sd1"), trained[0]), trained[1])


def test_each_condition_goes_on_with_its_own(tiny_sd: Tiny, tmp_path: Path) -> None:
    base = tiny_sd("sd1")
    before = start(base, None, 2, connection_init="gaussian")
    before.save(tmp_path / "run" / "controlnet")
    after = start(base, tmp_path / "run" / "controlnet", 2)
    expected = before.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in after.state_dict().items())
    with pytest.raises(
        WeightsMissingError, match="no ControlNet for condition 3: .* the others are in controlnet_1, controlnet_2"
    ):
        start(base, tmp_path / "run" / "controlnet", 3)
    one = tmp_path / "one.safetensors"
    save_file(before.nets[0].state_dict(), one)
    with pytest.raises(WeightsMissingError, match="no ControlNet for condition 2"):
        start(base, one, 2)


@pytest.mark.parametrize("name", ["one.safetensors", "one.pth", "bare.safetensors", "diffusers.safetensors"])
def test_a_single_file_is_gone_on_with(
    name: str, trained: tuple[Path, dict[str, torch.Tensor]], tiny_sd: Tiny, tmp_path: Path
) -> None:
    there = to_cldm(trained[1])
    if name == "one.pth":
        torch.save({"state_dict": there}, tmp_path / name)
    elif name == "one.safetensors":
        save_file(there, tmp_path / name)
    elif name == "bare.safetensors":
        save_file({key.removeprefix("control_model."): value for key, value in there.items()}, tmp_path / name)
    else:
        save_file(trained[1], tmp_path / name)
    assert same(start(tiny_sd("sd1"), tmp_path / name), trained[1])


def test_a_repository_is_looked_for_in_the_folder_of_weights(
    trained: tuple[Path, dict[str, torch.Tensor]], tiny_sd: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained[0], tmp_path / "weights" / "somebody" / "net")
    monkeypatch.setenv("CONTROLMILL_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert same(start(tiny_sd("sd1"), "somebody/net"), trained[1])
    with pytest.raises(WeightsMissingError, match="somebody/other"):
        start(tiny_sd("sd1"), "somebody/other")


def test_what_runs_code_is_refused(tiny_sd: Tiny, tmp_path: Path) -> None:
    torch.save({"control_model.input_hint_block.0.weight": Path("/")}, tmp_path / "bad.pth")
    with pytest.raises(WeightsUnusableError, match=r"bad\.pth holds more than tensors"):
        start(tiny_sd("sd1"), tmp_path / "bad.pth")


def test_a_controlnet_of_another_kind_of_base_is_refused(
    trained: tuple[Path, dict[str, torch.Tensor]], tiny_sd: Tiny, tmp_path: Path
) -> None:
    with pytest.raises(WeightsUnusableError, match="for another kind of base: its block_out_channels"):
        start(tiny_sd("sdxl"), trained[0])
    save_file(to_cldm(trained[1]), tmp_path / "sd1.safetensors")
    with pytest.raises(WeightsUnusableError, match=r"sd1\.safetensors does not fit"):
        start(tiny_sd("sdxl"), tmp_path / "sd1.safetensors")
    with pytest.raises(WeightsUnusableError, match="takes hints of 3 channels, and this run's have 6"):
        start(tiny_sd("sd1"), trained[0], 2, several_conditions="stack")


def test_missing_and_broken_files_are_named(trained: tuple[Path, dict[str, torch.Tensor]], tiny_sd: Tiny) -> None:
    with pytest.raises(WeightsMissingError, match="there is no /nowhere"):
        start(tiny_sd("sd1"), "/nowhere")
    config = json.loads((trained[0] / "config.json").read_text())
    (trained[0] / "config.json").write_text(json.dumps(config | {"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(WeightsUnusableError, match="holds a UNet2DConditionModel"):
        start(tiny_sd("sd1"), trained[0])
    (trained[0] / "config.json").write_text(json.dumps(config | {"layers_per_block": 1}))
    with pytest.raises(WeightsUnusableError, match=r"does not fit: it has beyond it"):
        start(tiny_sd("sd1"), trained[0])
    (trained[0] / "config.json").unlink()
    with pytest.raises(WeightsMissingError, match=r"has no config\.json"):
        start(tiny_sd("sd1"), trained[0])


def test_moving_to_another_base_adds_what_differs(trained: tuple[Path, dict[str, torch.Tensor]], tiny_sd: Tiny) -> None:
    moved = start(tiny_sd("sd1", 1), trained[0], transfer_from=str(tiny_sd("sd1", 0))).nets[0].state_dict()
    old = loaded(tiny_sd("sd1", 0)).unet.state_dict()
    new = loaded(tiny_sd("sd1", 1)).unet.state_dict()
    for name, value in moved.items():
        expected = trained[1][name] + (new[name] - old[name]) if name in new else trained[1][name]
        assert torch.equal(value, expected), name
    assert sum(name in new for name in moved) > 100
    with pytest.raises(WeightsUnusableError, match="transfer_from"):
        start(tiny_sd("sd1", 1), trained[0], transfer_from=str(tiny_sd("sd2", 0)))


def test_a_fresh_copy_moves_to_a_fresh_copy(tiny_sd: Tiny, tmp_path: Path) -> None:
    start(tiny_sd("sd1", 0), None).save(tmp_path / "fresh")
    moved = start(tiny_sd("sd1", 1), tmp_path / "fresh", transfer_from=str(tiny_sd("sd1", 0)))
    unet = loaded(tiny_sd("sd1", 1)).unet.state_dict()
    for name, value in moved.groups()["copy"].items():
        torch.testing.assert_close(value, unet[name.removeprefix("nets.0.")], check_stride=False)


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="transfer_from: goes with controlnet_model_name_or_path"):
        validate(ModelOptions, {"pretrained_model_name_or_path": "x", "transfer_from": "y"})
    with pytest.raises(ConfigError, match="4 numbers make the 8 convolutions, not 2"):
        validate(ModelOptions, {"pretrained_model_name_or_path": "x", "hint_channels": [1, 2]})
