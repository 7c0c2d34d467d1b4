import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from controlmill.errors import WeightsUnusableError
from storage.weights.tensors import read_tensors

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2)}


def _equal(state: dict[str, torch.Tensor]) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_files_old_and_new(tmp_path: Path, *, zipped: bool) -> None:
    torch.save(STATE, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    assert _equal(read_tensors(tmp_path / "net.pth"))


def test_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "net.safetensors")
    assert _equal(read_tensors(tmp_path / "net.safetensors"))


@pytest.mark.parametrize("name", ["model", "state_dict", "model_state_dict"])
def test_what_a_trainer_saved_is_unwrapped(tmp_path: Path, name: str) -> None:
    content = {"epoch": 3, name: {f"module.{key}": value for key, value in STATE.items()}}
    torch.save(content, tmp_path / "net.pt")
    assert _equal(read_tensors(tmp_path / "net.pt"))


class Malicious:
    """What an attacker would put into a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_are_refused_and_nothing_of_them_runs(tmp_path: Path, *, zipped: bool) -> None:
    content = {**STATE, "more": Malicious(tmp_path / "ran")}
    torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsUnusableError, match=r"net\.pth holds more than tensors"):
        read_tensors(tmp_path / "net.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"PK\x03\x04 and no more", b"\x80\x02"])
def test_other_files_are_refused_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsUnusableError, match=name) as caught:
        read_tensors(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": [1.0, 2.0]}, tmp_path / "net.pth")
    with pytest.raises(WeightsUnusableError, match="not a table of tensors"):
        read_tensors(tmp_path / "net.pth")
