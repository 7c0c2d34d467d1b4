from pathlib import Path

import pytest
import torch

from controlmill.errors import WeightsUnusableError
from tasks.annotators.checkpoint import fill

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2)}


def test_a_file_must_fit_its_network(tmp_path: Path) -> None:
    fill(torch.nn.Linear(3, 2), STATE, tmp_path / "net.pth")
    with pytest.raises(WeightsUnusableError, match=r"net\.pth does not fit Linear: size mismatch for weight"):
        fill(torch.nn.Linear(4, 2), STATE, tmp_path / "net.pth")
    with pytest.raises(WeightsUnusableError, match=r'Missing key.*"bias"'):
        fill(torch.nn.Linear(3, 2), {"weight": STATE["weight"]}, tmp_path / "net.pth")
