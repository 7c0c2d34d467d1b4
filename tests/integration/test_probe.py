"""The probe in real runs: it changes nothing, ranks share it, and a resumed run goes on with it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from controlmill.cli.main import main
from controlmill.testing.ranks import run_options, train_on_ranks
from controlmill.testing.tiny_sd import write_tiny_sd
from controlmill.testing.training_set import write_training_set

NUM_UPDATES = 4
PROBED = {"num_probe_rows": 5, "probe_steps": 1, "controllability_steps": 2, "controllability_num_steps": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    write_tiny_sd(folder / "base", unet_widths=(16, 16, 16, 16))
    write_training_set(folder, num_rows=60, size=64)
    return folder


def config(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    own = {"train_batch_size": 4, "max_train_steps": NUM_UPDATES, "checkpointing_steps": 2, "hint_init": "kaiming"}
    return run_options(folder, name, **{**own, **PROBED, **options})


def lines(folder: Path, name: str, log: str) -> list[dict[str, Any]]:
    path = folder / name / log
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def without_time(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


@pytest.fixture(scope="module")
def one_rank(folder: Path) -> list[dict[str, Any]]:
    configs = [config(folder, "probed", report_to=["tensorboard"])]
    return train_on_ranks(1, configs, folder / "ranks-1", read_back=True)


@pytest.fixture(scope="module")
def unwatched(folder: Path) -> list[dict[str, Any]]:
    """The same rows are held out, and nobody measures anything on them."""
    return train_on_ranks(1, [config(folder, "unwatched")], folder / "ranks-unwatched", unwatched=True)


@pytest.fixture(scope="module")
def two_ranks(folder: Path) -> list[dict[str, Any]]:
    configs = [config(folder, f"two-{stage}", train_batch_size=2, zero_stage=stage) for stage in (0, 3)]
    return train_on_ranks(2, configs, folder / "ranks-2", read_back=True)


def test_measuring_does_not_change_the_training(
    folder: Path, one_rank: list[dict[str, Any]], unwatched: list[dict[str, Any]]
) -> None:
    assert [outcome.get("update") for outcome in (*one_rank, *unwatched)] == [NUM_UPDATES] * 2, unwatched
    names = ("probed", "unwatched")
    measured, plain = (without_time(lines(folder, name, "metrics.jsonl")) for name in names)
    assert len(measured) == NUM_UPDATES
    assert measured == plain
    assert [line["update"] for line in lines(folder, "probed", "probe.jsonl")] == list(range(NUM_UPDATES + 1))
    assert lines(folder, "unwatched", "probe.jsonl") == []
    weights = [(folder / name / "controlnet" / "diffusion_pytorch_model.safetensors") for name in names]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.usefixtures("one_rank")
def test_what_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, *_, last = lines(folder, "probed", "probe.jsonl")
    assert first["loss_right"] == first["loss_wrong"] == first["loss_none"]
    assert (first["residual_sensitivity"], first["gain"], first["p_value"]) == (0.0, 0.0, 0.5)
    assert set(first["zero_convolution_norms"].values()) == {0.0}
    assert last["timesteps"] == [300, 450, 650]
    assert [len(last["loss_right"]), len(last["loss_right"][0])] == [5, 3]
    assert last["loss_none"] == first["loss_none"]
    assert last["loss_right"] != last["loss_wrong"]
    assert last["residual_sensitivity"] > 0
    assert last["samples_seen"] == 4 * NUM_UPDATES
    assert 0 < last["epoch"] < 1
    assert min(last["zero_convolution_norms"].values()) > 0
    assert main(["convergence", str(folder / "probed"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["following"] is None
    assert found["max_gain"] == pytest.approx(max(line["gain"] for line in lines(folder, "probed", "probe.jsonl")))


@pytest.mark.usefixtures("one_rank")
def test_tensorboard_has_what_the_log_has(folder: Path) -> None:
    found = EventAccumulator(str(folder / "probed" / "logs"))
    found.Reload()
    fields = {"probe/gain": "gain", "probe/p_value": "p_value", "probe/sensitivity": "residual_sensitivity"}
    for tag, field in fields.items():
        plotted = {one.step: one.value for one in found.Scalars(tag)}
        logged = {line["update"]: line[field] for line in lines(folder, "probed", "probe.jsonl")}
        assert plotted == pytest.approx(logged, rel=1e-6)
        assert any(plotted.values())


@pytest.mark.usefixtures("one_rank")
def test_ranks_and_partitions_give_the_same(folder: Path, two_ranks: list[dict[str, Any]]) -> None:
    assert [outcome.get("update") for outcome in two_ranks] == [NUM_UPDATES] * 2, two_ranks
    alone = lines(folder, "probed", "probe.jsonl")
    for name in ("two-0", "two-3"):
        together = lines(folder, name, "probe.jsonl")
        assert len(together) == len(alone)
        for ours, theirs in zip(together, alone, strict=True):
            for field in ("loss_right", "loss_wrong", "loss_none"):
                flat = [loss for row in ours[field] for loss in row]
                assert flat == pytest.approx([loss for row in theirs[field] for loss in row], rel=1e-4)
            assert ours["residual_sensitivity"] == pytest.approx(theirs["residual_sensitivity"], rel=1e-2)
            assert ours["zero_convolution_norms"] == pytest.approx(theirs["zero_convolution_norms"], rel=1e-2)
        measured = [lines(folder, one, "controllability.jsonl") for one in (name, "probed")]
        assert [line["because"] for line in measured[0]] == ["start", "interval", "end"]
        for ours, theirs in zip(*measured, strict=True):
            assert ours["real"] == theirs["real"]
            # batches of another size round differently, and an edge more or less comes of it
            for field in ("own", "other", "off"):
                assert ours[field] == pytest.approx(theirs[field], abs=0.02)


@pytest.mark.usefixtures("two_ranks")
def test_a_resumed_run_neither_loses_nor_doubles_a_line(folder: Path) -> None:
    shutil.copytree(folder / "two-0", folder / "resumed", ignore=shutil.ignore_patterns("checkpoint-4*"))
    shutil.rmtree(folder / "resumed" / "controlnet")
    options = {"train_batch_size": 2, "resume_from_checkpoint": "latest"}
    (outcome,) = train_on_ranks(2, [config(folder, "resumed", **options)], folder / "ranks-2-resumed", read_back=True)
    assert outcome.get("update") == NUM_UPDATES, outcome
    for log in ("probe.jsonl", "events.jsonl", "controllability.jsonl"):
        assert without_time(lines(folder, "resumed", log)) == without_time(lines(folder, "two-0", log))
