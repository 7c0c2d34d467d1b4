"""The whole: a ControlNet on the small Stable Diffusion of the examples converges suddenly, and is caught in the act.

Its negative control, the same training with hints of other images, stays silent. About one minute of one CPU core.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from controlmill.cli.main import main
from controlmill.testing.ranks import train_on_ranks
from controlmill.testing.training_set import write_training_set
from storage.dataset import Dataset
from storage.writer import ShardWriter

BASE = Path(__file__).resolve().parents[2] / "examples" / "tiny_sd" / "base"
NUM_ROWS, NUM_UPDATES, EVERY = 320, 80, 5


def give_hints_of_other_images(uri: str) -> None:
    """Every row of `canny` gets the map of the next row of its shard."""
    dataset = Dataset.open(uri)
    layer = dataset.layer("canny")
    for shard in range((NUM_ROWS + 79) // 80):
        table = pq.read_table(layer.path(shard))
        column = table.schema.get_field_index("conditioning_image")
        order = pa.array([(row + 1) % len(table) for row in range(len(table))])
        table = table.set_column(column, table.schema.field(column), table.column(column).take(order))
        record = layer.record(shard)
        assert record is not None
        with ShardWriter(dataset, "canny", shard, table.schema) as writer:
            writer.write(table)
            written = writer.close()
            writer.commit(record.model_copy(update={"sha256": written.sha256, "num_bytes": written.num_bytes}))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("convergence")
    configs = []
    for name in ("related", "unrelated"):
        dataset = write_training_set(folder / name, num_rows=NUM_ROWS, size=128, rows_per_shard=80)
        if name == "unrelated":
            give_hints_of_other_images(dataset)
        configs.append(
            {
                "train_data_dir": dataset,
                "condition": ["canny"],
                "pretrained_model_name_or_path": str(BASE),
                "output_dir": str(folder / f"run-{name}"),
                "resolution": 128,
                "train_batch_size": 16,
                "max_train_steps": NUM_UPDATES,
                "checkpointing_steps": NUM_UPDATES,
                "learning_rate": 1e-3,
                "min_timestep": 300,
                "hint_init": "kaiming",
                "hint_channels": [8, 8, 16, 32],
                "report_to": ["none"],
                "num_probe_rows": 16,
                "probe_steps": EVERY,
                "on_following": "continue_for: 45",
            }
        )
    outcomes = train_on_ranks(1, configs, folder / "ranks")
    assert all("update" in outcome for outcome in outcomes), outcomes
    return {name: folder / f"run-{name}" for name in ("related", "unrelated")}


def analysed(run: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["convergence", str(run), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.timeout(600)
def test_related_hints_are_followed_suddenly(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = analysed(runs["related"], capsys)
    assert 15 <= found["following"] <= 85
    assert found["onset"] <= found["following"]
    assert found["max_gain"] > 0.3
    assert 10 <= found["convergence_update"] <= 80
    events = lines(runs["related"] / "events.jsonl")
    assert [event["update"] for event in events if event["event"] == "control_following"] == [found["following"]]
    assert lines(runs["related"] / "probe.jsonl")[-1]["residual_sensitivity"] > 0.5
    for forecast in found["forecasts"]:
        assert forecast["low"] <= forecast["expected"] <= forecast["high"]


@pytest.mark.timeout(600)
def test_it_went_on_as_long_as_it_was_told_to(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    at = analysed(runs["related"], capsys)["following"]
    assert len(lines(runs["related"] / "metrics.jsonl")) == min(at + 45, NUM_UPDATES)
    commit = json.loads((runs["related"] / f"checkpoint-{at}" / "commit.json").read_text())
    assert commit["keep"] == f"converged-{at}"
    assert "Convergence at update " in (runs["related"] / "README.md").read_text()


@pytest.mark.timeout(600)
def test_unrelated_hints_stay_silent(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = analysed(runs["unrelated"], capsys)
    assert found["following"] is None
    assert found["settled"] is None
    assert found["max_gain"] < 0.02
    assert found["forecasts"] == []
    assert "No convergence: " in (runs["unrelated"] / "README.md").read_text()
