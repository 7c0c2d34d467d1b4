"""Options of the step, each in a real run of one rank: precision, an unlocked base, a loss that is lost, and more."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from controlmill.testing.ranks import run_options, train_on_ranks
from controlmill.testing.tiny_sd import write_tiny_sd
from controlmill.testing.training_set import write_training_set

RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "recomputed": {"gradient_checkpointing": True},
    "bf16": {"mixed_precision": "bf16", "zero_stage": 2},
    "unlocked": {"unlock_at_step": 1, "decoder_learning_rate": 1e-3, "checkpointing_steps": 2},
    "middle": {"mid_until_step": 2},
    "never connected": {"mid_until_step": 100},
    "lost": {"learning_rate": 1e30, "checkpointing_steps": 1, "max_train_steps": 12},
    "weighted": {"snr_gamma": 5.0, "loss_type": "huber", "noise_offset": 0.1, "log_steps": 2},
    "few": {"checkpointing_steps": 1, "checkpoints_total_limit": 2, "report_to": ["tensorboard"]},
}


def config(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    return run_options(folder, name, **{"max_train_steps": 4, **options})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("options")
    write_tiny_sd(folder / "base", unet_widths=(16, 16, 16, 16))
    write_training_set(folder, num_rows=24, size=64)
    configs = [config(folder, name, **options) for name, options in RUNS.items()]
    configs.append(config(folder, "plain"))
    outcomes = train_on_ranks(1, configs, folder / "ranks")
    return folder, dict(zip([*RUNS, "again"], outcomes, strict=True))


def losses(folder: Path, name: str) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


Runs = tuple[Path, dict[str, dict[str, Any]]]


def test_recomputed_activations_change_nothing(runs: Runs) -> None:
    assert losses(runs[0], "recomputed") == losses(runs[0], "plain")


def test_bf16_is_near_float32(runs: Runs) -> None:
    assert losses(runs[0], "bf16") == pytest.approx(losses(runs[0], "plain"), rel=0.02)
    weights = load_file(runs[0] / "bf16" / "controlnet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_the_decoder_moves_once_it_is_unlocked_and_the_encoder_never(runs: Runs) -> None:
    folder = runs[0]
    before = load_file(folder / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    after = load_file(folder / "unlocked" / "unet" / "diffusion_pytorch_model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith(("up_blocks.", "conv_norm_out.", "conv_out.")) for name in moved)
    assert losses(folder, "unlocked")[:2] == losses(folder, "plain")[:2]
    assert losses(folder, "unlocked")[2:] != losses(folder, "plain")[2:]
    assert not (folder / "plain" / "unet").exists()


def test_an_unlocked_run_goes_on_bit_by_bit(runs: Runs) -> None:
    folder = runs[0]
    shutil.copytree(folder / "unlocked", folder / "unlocked-again")
    for name in ("checkpoint-4", "controlnet", "unet"):
        shutil.rmtree(folder / "unlocked-again" / name)
    again = config(folder, "unlocked-again", **RUNS["unlocked"], resume_from_checkpoint="latest")
    (outcome,) = train_on_ranks(1, [again], folder / "ranks-again")
    assert outcome.get("update") == 4, outcome
    assert losses(folder, "unlocked-again") == losses(folder, "unlocked")
    one = load_file(folder / "unlocked" / "unet" / "diffusion_pytorch_model.safetensors")
    two = load_file(folder / "unlocked-again" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_skip_connections_are_left_alone_until_they_are_connected(runs: Runs) -> None:
    connected, never = losses(runs[0], "middle"), losses(runs[0], "never connected")
    assert connected[0] == losses(runs[0], "plain")[0]
    assert connected[1:] != losses(runs[0], "plain")[1:]
    # from the third update on the connections learn, whose first effect is on the fourth
    assert connected[:3] == never[:3]
    assert connected[3] != never[3]


def test_a_loss_that_is_lost_stops_the_run_and_names_the_rows(runs: Runs) -> None:
    folder, outcomes = runs
    assert outcomes["lost"]["error"] == "NonFiniteLossError"
    update = len(losses(folder, "lost"))
    assert f"last good checkpoint: checkpoint-{update}" in outcomes["lost"]["message"]
    assert not (folder / "lost" / "controlnet").exists()
    written = json.loads((folder / "lost" / "nonfinite.json").read_text())
    assert written["update"] == update + 1
    assert len({row["key"] for row in written["rows"]}) == 2


def test_losses_by_timestep_come_at_the_log_interval(runs: Runs) -> None:
    lines = [json.loads(line) for line in (runs[0] / "weighted" / "metrics.jsonl").read_text().splitlines()]
    assert ["loss_by_timestep" in line for line in lines] == [False, True, False, True]
    assert losses(runs[0], "weighted") != losses(runs[0], "plain")


def test_old_checkpoints_go_and_events_are_written(runs: Runs) -> None:
    folder = runs[0] / "few"
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    assert list((folder / "logs").glob("events.out.tfevents.*"))


def test_an_earlier_checkpoint_goes_on_without_those_behind_it(runs: Runs) -> None:
    folder = runs[0]
    first = config(folder, "earlier", checkpointing_steps=1)
    again = {**first, "resume_from_checkpoint": "checkpoint-1", "checkpoints_total_limit": 2, "max_train_steps": 3}
    outcomes = train_on_ranks(1, [first, again], folder / "ranks-earlier")
    assert [outcome.get("update") for outcome in outcomes] == [4, 3], outcomes
    run = folder / "earlier"
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    aside = sorted(path.name for path in (run / "set-aside-1").iterdir())
    assert aside == ["checkpoint-2", "checkpoint-3", "checkpoint-4", "metrics.jsonl"]
    assert len(losses(run, "set-aside-1")) == 4
    assert losses(folder, "earlier") == losses(folder, "plain")[:3]


def test_a_folder_with_a_run_is_not_begun_anew(runs: Runs) -> None:
    assert runs[1]["again"]["error"] == "ConfigError"
    assert "resume_from_checkpoint=latest" in runs[1]["again"]["message"]
