"""What is done at an event, in real runs: it changes the training, and a resumed run goes on as the whole one did."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from controlmill.testing.ranks import FOLLOWED_AT_ONCE, run_options, train_on_ranks
from controlmill.testing.tiny_sd import write_tiny_sd
from controlmill.testing.training_set import write_training_set

NUM_UPDATES = 4
RUNS: dict[str, dict[str, Any]] = {
    "accumulate": {"on_following": "accumulate: 2"},
    "lower-lr": {"on_following": "lower_lr: 0.5"},
    "unlock-base": {"on_following": "unlock_base"},
    "connect-until": {"on_following": "connect_decoder", "mid_until_step": 1000},
    "connect-0": {"on_following": "connect_decoder", "only_mid_control": True},
    "connect-2": {"on_following": "connect_decoder", "only_mid_control": True, "zero_stage": 2},
    "connect-3": {"on_following": "connect_decoder", "only_mid_control": True, "zero_stage": 3},
    "stop": {"on_following": "stop"},
    "continue-for": {"on_following": "continue_for: 1"},
}
ENDED_EARLY = ("stop", "continue-for")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policies")
    write_tiny_sd(folder / "base", unet_widths=(16, 16, 16, 16))
    write_training_set(folder, num_rows=60, size=64)
    return folder


def config(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    own = {
        "max_train_steps": NUM_UPDATES,
        "checkpointing_steps": 1,
        "hint_init": "kaiming",
        "num_probe_rows": 5,
        "learning_rate": 1e-2,
        "seed": 1,
    }
    return run_options(folder, name, **{**own, **FOLLOWED_AT_ONCE, **options})


def lines(run: Path, log: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run / log).read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def followed_at(run: Path) -> int:
    (event,) = [line for line in lines(run, "events.jsonl") if line["event"] == "control_following"]
    at: int = event["update"]
    return at


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, dict[str, Any]]:
    """All runs from start to end."""
    done = train_on_ranks(1, [config(folder, name, **options) for name, options in RUNS.items()], folder / "ranks")
    outcomes = dict(zip(RUNS, done, strict=True))
    assert all("update" in outcome for outcome in done), outcomes
    return outcomes


@pytest.fixture(scope="module")
def resumed(folder: Path, whole: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same, killed after the checkpoint of the event (those that end early: after their last one)."""
    configs = []
    for name, options in RUNS.items():
        last = whole[name]["update"] if name in ENDED_EARLY else followed_at(folder / name)
        gone = [f"checkpoint-{update}" for update in range(last + 1, NUM_UPDATES + 1)]
        shutil.copytree(folder / name, folder / f"{name}-again", ignore=shutil.ignore_patterns(*gone))
        shutil.rmtree(folder / f"{name}-again" / "controlnet")
        configs.append(config(folder, f"{name}-again", resume_from_checkpoint="latest", **options))
    return dict(zip(RUNS, train_on_ranks(1, configs, folder / "ranks-again"), strict=True))


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_goes_on_as_the_whole_one(
    folder: Path, whole: dict[str, dict[str, Any]], resumed: dict[str, dict[str, Any]], name: str
) -> None:
    assert resumed[name].get("update") == whole[name]["update"], resumed[name]
    for log in ("metrics.jsonl", "probe.jsonl", "events.jsonl"):
        assert lines(folder / f"{name}-again", log) == lines(folder / name, log)
    ours, theirs = (
        load_file(one / "controlnet" / "diffusion_pytorch_model.safetensors") for one in runs_of(folder, name)
    )
    assert all((ours[key] == theirs[key]).all() for key in theirs)


def runs_of(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / name, folder / f"{name}-again"


def test_the_batch_grows(folder: Path, whole: dict[str, dict[str, Any]]) -> None:
    at = followed_at(folder / "accumulate")
    assert at < NUM_UPDATES
    assert whole["accumulate"]["samples_seen"] == 2 * at + 4 * (NUM_UPDATES - at)


@pytest.mark.usefixtures("whole")
def test_the_learning_rate_falls(folder: Path) -> None:
    at = followed_at(folder / "lower-lr")
    rates = [line["learning_rate"] for line in lines(folder / "lower-lr", "metrics.jsonl")]
    assert rates == [1e-2] * at + [5e-3] * (NUM_UPDATES - at)


@pytest.mark.usefixtures("whole")
def test_the_base_is_trained(folder: Path) -> None:
    before = load_file(folder / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    after = load_file(folder / "unlock-base" / "unet" / "diffusion_pytorch_model.safetensors")
    changed = {name.partition(".")[0] for name, weight in before.items() if not (weight == after[name]).all()}
    assert changed == {"up_blocks", "conv_norm_out", "conv_out"}


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("name", [name for name in RUNS if name.startswith("connect")])
def test_the_decoder_is_connected(folder: Path, name: str) -> None:
    """Its zero convolutions are as they began until the event, and learn from then on."""

    def moved(checkpoint: Path) -> list[bool]:
        weights = load_file(checkpoint / "controlnet" / "diffusion_pytorch_model.safetensors")
        return [bool(one.any()) for key, one in weights.items() if key.startswith("controlnet_down_blocks.")]

    at = followed_at(folder / name)
    assert at < NUM_UPDATES
    assert not any(moved(folder / name / f"checkpoint-{at}"))
    assert all(moved(folder / name / f"checkpoint-{at + 1}"))
    residuals = [len(line["residual_norms"]) for line in lines(folder / name, "probe.jsonl")]
    assert residuals[-1] > 1


@pytest.mark.parametrize(("name", "updates_more"), [("stop", 0), ("continue-for", 1)])
def test_a_run_that_ended_by_itself_does_not_go_on(
    folder: Path, resumed: dict[str, dict[str, Any]], name: str, updates_more: int
) -> None:
    assert resumed[name]["update"] == followed_at(folder / name) + updates_more < NUM_UPDATES
    assert "asked to stop" in resumed[name]["reason"]
