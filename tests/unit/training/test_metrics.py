import json
from pathlib import Path

import pytest

from training.callbacks.base import UpdateMetrics
from training.metrics import METRICS, RunFiles, as_record


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
