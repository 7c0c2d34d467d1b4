"""What can be told of the LAVIS worker without LAVIS; tests/integration/test_lavis.py runs it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
import pytest
import torch

from tasks.captioners.lavis_worker import LavisWorker

ROOT = Path(__file__).resolve().parents[4]


def test_it_is_importable_where_nothing_is_installed() -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tasks.captioners.lavis_worker import LavisWorker\n"
        "ours = {name for name in sys.modules if name.partition('.')[0] in ('tasks', 'controlmill', 'storage')}\n"
        "print(*sorted(ours))"
    )
    # -I -S: no site-packages, no environment variables
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "tasks", "tasks.captioners", "tasks.captioners.convert", "tasks.captioners.lavis_worker",
        "tasks.captioners.seeds",
    ]  # fmt: skip


class Network:
    """What LAVIS's network says, on a GPU that holds `room` images at once."""

    prompt_length = 4

    def __init__(self, room: int, error: Exception | None = None) -> None:
        self._room = room
        self._error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        self.sizes: list[int] = []

    def generate(self, samples: dict[str, torch.Tensor], **_options: object) -> list[str]:
        values = [int(value) for value in samples["image"].amax(dim=(1, 2, 3))]
        self.sizes.append(len(values))
        if len(values) > self._room:
            raise self._error
        return [f" {value}" for value in values]


def worker(network: Network) -> LavisWorker:
    """A worker without LAVIS around a network: everything but loading is its own."""
    made = LavisWorker.__new__(LavisWorker)
    options = {"prompt": "", "num_beams": 1, "max_new_tokens": 9, "min_new_tokens": 1, "do_sample": False}
    made._options = {**options, "top_p": 0.9, "seed": 0}
    made._device = "cpu"
    made._network = network
    made._preprocess = lambda picture: torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return made


def pictures(*values: int) -> tuple[list[bytes], list[str]]:
    encoded = [cv2.imencode(".png", np.full((4, 6, 3), value, np.uint8))[1].tobytes() for value in values]
    return encoded, [f"{value:06d}" for value in values]


def test_a_batch_that_does_not_fit_onto_the_gpu_is_halved() -> None:
    network = Network(room=2)
    made = worker(network).caption(*pictures(1, 2, 3, 4, 5))
    assert made == [(str(value), None) for value in (1, 2, 3, 4, 5)]
    assert network.sizes == [5, 2, 3, 1, 2]


def test_an_image_that_does_not_fit_alone_is_the_trouble_of_the_machine() -> None:
    with pytest.raises(MemoryError, match="^lavis: one image alone does not fit into memory: .*CUDA out of memory"):
        worker(Network(room=0)).caption(*pictures(1, 2))


def test_one_bad_image_is_one_failure() -> None:
    encoded, keys = pictures(1, 2)
    made = worker(Network(room=0, error=ValueError("a bad\n image"))).caption([*encoded, b"none"], [*keys, "c"])
    assert [one for _, one in made[:2]] == ["ValueError: a bad image"] * 2
    assert "UnidentifiedImageError" in str(made[2][1])


def test_a_gpu_that_is_lost_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(code: int) -> NoReturn:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    lost = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(SystemExit, match="^1$"):
        worker(Network(room=0, error=lost)).caption(*pictures(1, 2))
    assert "lavis: AcceleratorError: CUDA error: an illegal memory access was encountered" in capsys.readouterr().err
