import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from controlmill.config import TrainConfig
from training.callbacks.base import UpdateMetrics
from training.metrics import METRICS, RunFiles, WandbTracker, as_record, trackers


@pytest.fixture(params=["disk", "memory"])
def output_dir(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "disk" else f"memory://{tmp_path.name}/metrics"


def read(output_dir: str) -> list[dict[str, object]]:
    files = RunFiles(output_dir)
    lines = (files.folder / METRICS).read_text().splitlines()
    files.close()
    return [json.loads(line) for line in lines]


def test_lines_after_the_checkpoint_are_done_again(output_dir: str) -> None:
    files = RunFiles(output_dir)
    for update in (1, 2, 3):
        files.append(METRICS, {"update": update, "loss": update / 2})
        files.append("probe.jsonl", {"update": update})
    files.close()
    again = RunFiles(output_dir)
    again.go_on_from(2)
    again.append(METRICS, {"update": 3, "loss": 7.0})
    assert (again.folder / "probe.jsonl").read_text() == '{"update": 1}\n{"update": 2}\n'
    again.close()
    assert [(line["update"], line["loss"]) for line in read(output_dir)] == [(1, 0.5), (2, 1.0), (3, 7.0)]


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"update": 1}\n{"upd')
    files = RunFiles(str(tmp_path))
    files.go_on_from(5)
    files.close()
    assert (tmp_path / METRICS).read_text() == '{"update": 1}\n'


def test_a_record_is_json_whatever_happened() -> None:
    metrics = UpdateMetrics(3, 12, 0.25, 0.5, 1e-5, float("inf"), 0.125, {"0-99": 0.5})
    record = as_record(metrics)
    assert record == {
        "update": 3,
        "samples_seen": 12,
        "epoch": 0.25,
        "loss": 0.5,
        "learning_rate": 1e-5,
        "gradient_norm": float("inf"),
        "seconds": 0.125,
        "loss_by_timestep": {"0-99": 0.5},
    }


def test_numbers_without_a_json_word_become_null(tmp_path: Path) -> None:
    files = RunFiles(str(tmp_path))
    files.append(METRICS, {"update": 1, "gradient_norm": float("nan"), "inner": {"x": [float("inf"), 1.0]}})
    files.close()
    assert json.loads((tmp_path / METRICS).read_text()) == {
        "update": 1,
        "gradient_norm": None,
        "inner": {"x": [None, 1.0]},
    }


def test_a_training_that_goes_on_is_one_run_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = TrainConfig(
        train_data_dir="d", condition="canny", pretrained_model_name_or_path="b", output_dir=str(tmp_path),
        report_to=("wandb",), tracker_project_name="mine",
    )  # fmt: skip
    ids = []
    for first_update in (0, 2, 0):
        files = RunFiles(str(tmp_path))
        (tracker,) = trackers(config, files, first_update)
        assert isinstance(tracker, WandbTracker)
        tracker.scalar("loss", 0.5, first_update + 1)
        tracker.scalar("control/gain", 0.25, first_update + 1)
        tracker.image("samples", np.zeros((8, 8, 3), np.uint8), first_update + 2)
        assert tracker._run.step == first_update + 2
        ids.append(tracker._run.id)
        tracker.close()
        files.close()
    assert ids[0] == ids[1] != ids[2]
    (written,) = tmp_path.glob(f"wandb/offline-run-*-{ids[2]}")
    content = (written / f"run-{ids[2]}.wandb").read_bytes()
    assert all(word in content for word in (b"mine", b"loss", b"control/gain", b"learning_rate"))
    assert list(written.glob("files/media/images/samples_*.png"))


WITHOUT_KEY = """
import sys
from controlmill.config import TrainConfig
from training.metrics import RunFiles, trackers

common = {"train_data_dir": "d", "condition": "canny", "pretrained_model_name_or_path": "b"}
config = TrainConfig(**common, output_dir=sys.argv[1], report_to=("wandb",))
trackers(config, RunFiles(sys.argv[1]), 0)
"""


def test_wandb_without_a_key_says_what_to_do(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}  # where nobody has logged in
    finished = subprocess.run(
        [sys.executable, "-c", WITHOUT_KEY, str(tmp_path)],
        capture_output=True, text=True, check=False, env=environment, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("controlmill.errors.ConfigError")]
    assert re.search(r"report_to wandb: .*API key.*; or set WANDB_API_KEY, or WANDB_MODE=offline", line), line
