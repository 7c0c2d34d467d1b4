"""What of the machine is told: GPUs and NCCL as torch has them, a compiler, shared memory, open files."""

import resource
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from flows.doctor import machine


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def program(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.mark.usefixtures("no_gpu")
def test_a_driver_that_torch_does_not_use_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (none,) = machine.gpus()
    assert (none.what, none.verdict) == ("GPU", "note")
    program(tmp_path, "nvidia-smi")
    (unused,) = machine.gpus()
    assert unused.verdict == "problem"
    assert torch.__version__ in unused.found
    assert "driver" in str(unused.remedy)


@pytest.mark.parametrize(("num", "has_nccl", "verdict"), [(2, True, "good"), (2, False, "problem"), (1, False, "note")])
def test_several_gpus_need_nccl(num: int, has_nccl: bool, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    card = SimpleNamespace(name="H100", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _number: card)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: has_nccl)
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 27, 3))
    gpus, nccl = machine.gpus()
    assert (gpus.verdict, gpus.found.count("H100 (80 GiB)")) == ("good", num)
    assert (nccl.what, nccl.verdict) == ("NCCL", verdict)
    assert nccl.found == ("2.27.3" if has_nccl else "torch was built without it")


def test_a_compiler_is_found_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    (none,) = machine.compiler()
    assert (none.verdict, none.remedy) == ("note", "only --offload-optimizer needs one: install g++")
    path = program(tmp_path, "g++")
    (found,) = machine.compiler()
    assert (found.verdict, found.found) == ("good", str(path))


@pytest.fixture
def few_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("few_files")
def test_too_few_open_files_are_told() -> None:
    *_, files = machine.limits()
    assert (files.what, files.verdict, files.found) == ("open files", "note", "at most 512")
    assert str(files.remedy).startswith("ulimit -n 4096")


def test_little_shared_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=64 * 2**20))
    if not machine._SHARED_MEMORY.is_dir():
        pytest.skip("there is no shared memory")
    memory, _ = machine.limits()
    assert (memory.verdict, memory.found) == ("note", "64 MiB free in /dev/shm")
