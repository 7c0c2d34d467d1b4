"""Gradients that are not finite under a loss that is: the run stops and names the rows, under every ZeRO stage."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from controlmill.config import TrainConfig
from controlmill.errors import NonFiniteLossError
from controlmill.testing.ranks import run_options
from controlmill.testing.tiny_sd import write_tiny_sd
from controlmill.testing.training_set import write_training_set
from training.loop import train
from training.objective import Objective
from training.place import Place

# torch's and DeepSpeed's own: what they call outdated in each other
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nonfinite")
    write_tiny_sd(folder / "base", unet_widths=(16, 16, 16, 16))
    write_training_set(folder, num_rows=24, size=64)
    return folder


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """One rank, in this process."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in alone.items():
            patch.setenv(name, value)
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        yield Place(0, 1, torch.device("cpu"))
        dist.destroy_process_group()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_run_stops_and_names_the_rows(
    stage: int, folder: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Objective.losses

    def with_a_steep_root(*given: torch.Tensor) -> torch.Tensor:
        # 0, with a slope of 0 times infinity
        return (0.0 * losses(*given)).sqrt()  # type: ignore[arg-type]

    monkeypatch.setattr(Objective, "losses", with_a_steep_root)
    name = f"stage-{stage}"
    config = TrainConfig.model_validate(run_options(folder, name, zero_stage=stage, max_train_steps=3))
    with pytest.raises(
        NonFiniteLossError, match=r"the gradients of update 1 are (nan|inf): stopped; .*nonfinite\.json"
    ):
        train(config, place)
    written = json.loads((folder / name / "nonfinite.json").read_text())
    assert written["update"] == 1
    assert [row["loss"] for row in written["rows"]] == ["0.0", "0.0"]
