"""Exported files: bit for bit, in either layout, and a clear refusal where there is none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from controlmill.config.model import ModelOptions
from controlmill.errors import WeightsMissingError, WeightsUnusableError
from storage.weights.tensors import read_tensors
from training.base_model import BaseModel
from training.controlnet import ControlNets, create
from training.export import export_model
from training.layouts import from_cldm

Tiny = Callable[..., Path]


def write_run(run: Path, base: Path, num_conditions: int = 1, **changes: object) -> ControlNets:
    values = {
        "pretrained_model_name_or_path": str(base),
        "connection_init": "gaussian",
        "hint_channels": (4, 4, 8, 8),
        **changes,
    }
    nets = create(BaseModel.load(str(base), parts=["unet"]), ModelOptions.model_validate(values), 0, num_conditions)
    nets.save(run / "controlnet")
    return nets


def test_both_layouts_hold_the_same_bits(tiny_sd: Tiny, tmp_path: Path) -> None:
    nets = write_run(tmp_path / "run", tiny_sd("sd1"), 2)
    files = export_model(tmp_path / "run", "cldm", tmp_path / "out" / "control.safetensors")
    assert [path.name for path in files] == ["control.safetensors", "control_1.safetensors"]
    folders = export_model(tmp_path / "run", "diffusers", tmp_path / "net")
    assert [path.name for path in folders] == ["net", "net_1"]
    again = ControlNets.load(tmp_path / "net")
    for number, path in enumerate(files):
        own = nets.nets[number].state_dict()
        tensors = read_tensors(path)
        assert all(name.startswith("control_model.") for name in tensors)
        back = from_cldm(tensors, own, str(path))
        for name, value in own.items():
            assert torch.equal(back[name], value)
            assert torch.equal(again.nets[number].state_dict()[name], value)


def test_the_same_run_makes_the_same_bytes(tiny_sd: Tiny, tmp_path: Path) -> None:
    write_run(tmp_path / "run", tiny_sd("sd1"))
    (one,) = export_model(tmp_path / "run", "cldm", tmp_path / "one.safetensors")
    (two,) = export_model(tmp_path / "run" / "controlnet", "cldm", tmp_path / "two.safetensors")
    assert one.read_bytes() == two.read_bytes()


def test_what_cannot_be_exported_is_refused(tiny_sd: Tiny, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissingError, match="has no finished ControlNet"):
        export_model(tmp_path, "cldm", tmp_path / "out.safetensors")
    write_run(tmp_path / "run", tiny_sd("sd1"), hint_network="v1")
    with pytest.raises(WeightsUnusableError, match=r"ends in \.safetensors"):
        export_model(tmp_path / "run", "cldm", tmp_path / "out.pth")
    with pytest.raises(WeightsUnusableError, match="hint network of the article's text"):
        export_model(tmp_path / "run", "cldm", tmp_path / "out.safetensors")
    assert export_model(tmp_path / "run", "diffusers", tmp_path / "out") == [tmp_path / "out"]
