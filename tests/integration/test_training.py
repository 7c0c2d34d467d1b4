"""One run on one and on two real gloo ranks, under every ZeRO stage: the same losses, and bit-exact resumption."""

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

STAGES = (0, 1, 2, 3)
NUM_UPDATES = 4
A_TENTH_OF_AN_UPDATE = 1e-4
"""AdamW moves weights by about the learning rate, 1e-3; where a gradient is almost zero, rounding decides how far."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_tiny_sd(folder / "base", unet_widths=(16, 16, 16, 16))
    write_training_set(folder, num_rows=24, size=64)
    return folder


def config(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    own = {"max_train_steps": NUM_UPDATES, "checkpointing_steps": 2, "use_ema": True}
    return run_options(folder, name, **{**own, **options})


def losses(folder: Path, name: str) -> list[float]:
    records = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    assert [record["update"] for record in records] == list(range(1, len(records) + 1))
    return [record["loss"] for record in records]


def norms(folder: Path, name: str) -> list[float]:
    return [json.loads(line)["gradient_norm"] for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / name / "controlnet" / "diffusion_pytorch_model.safetensors")


def as_if_killed_after_checkpoint_2(folder: Path, name: str, copy: str) -> None:
    """What a kill between updates 3 and 4 leaves: lines beyond the checkpoint, and one that was not finished."""
    shutil.copytree(folder / name, folder / copy)
    shutil.rmtree(folder / copy / "checkpoint-4")
    shutil.rmtree(folder / copy / "controlnet")
    (folder / copy / "checkpoint-4").mkdir()
    with (folder / copy / "metrics.jsonl").open("a") as file:
        file.write('{"update": 5, "lo')


def train(num_ranks: int, configs: list[dict[str, Any]], messages: Path) -> None:
    outcomes = train_on_ranks(num_ranks, configs, messages)
    assert [outcome.get("update") for outcome in outcomes] == [NUM_UPDATES] * len(configs), outcomes


def go_on(folder: Path, prefix: str, num_ranks: int, **options: Any) -> None:
    """Go on with a copy of each run of two ranks as a kill has left it."""
    configs = []
    for stage in STAGES:
        as_if_killed_after_checkpoint_2(folder, f"two-{stage}", f"{prefix}-{stage}")
        configs.append(config(folder, f"{prefix}-{stage}", zero_stage=stage, **options))
    train(num_ranks, configs, folder / f"ranks-{prefix}")


@pytest.fixture(scope="module")
def one_rank(folder: Path) -> Path:
    configs = [config(folder, f"one-{stage}", zero_stage=stage, train_batch_size=4) for stage in STAGES]
    train(1, [*configs, config(folder, "accumulated", gradient_accumulation_steps=2)], folder / "ranks-1")
    return folder


@pytest.fixture(scope="module")
def two_ranks(folder: Path) -> Path:
    configs = [config(folder, f"two-{stage}", zero_stage=stage) for stage in STAGES]
    halves = {"train_batch_size": 1, "gradient_accumulation_steps": 2, "checkpointing_steps": NUM_UPDATES}
    configs += [config(folder, f"two-accumulated-{stage}", zero_stage=stage, **halves) for stage in STAGES]
    train(2, configs, folder / "ranks-2")
    return folder


@pytest.fixture(scope="module")
def resumed(two_ranks: Path) -> Path:
    go_on(two_ranks, "resumed", 2, resume_from_checkpoint="latest")
    return two_ranks


@pytest.fixture(scope="module")
def on_fewer_ranks(two_ranks: Path) -> Path:
    go_on(two_ranks, "fewer", 1, resume_from_checkpoint="checkpoint-2", train_batch_size=4)
    return two_ranks


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_are_one_process(one_rank: Path, two_ranks: Path, stage: int) -> None:
    folder = two_ranks
    assert one_rank == folder
    assert losses(folder, f"two-{stage}") == pytest.approx(losses(folder, "one-0"), rel=1e-6)
    assert losses(folder, f"one-{stage}") == pytest.approx(losses(folder, "one-0"), rel=1e-6)
    assert norms(folder, f"two-{stage}") == pytest.approx(norms(folder, "one-0"), rel=1e-5)
    assert norms(folder, f"one-{stage}") == pytest.approx(norms(folder, "one-0"), rel=1e-5)
    alone, together = weights(folder, "one-0"), weights(folder, f"two-{stage}")
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=0, atol=A_TENTH_OF_AN_UPDATE)


def test_accumulated_gradients_are_those_of_one_batch(one_rank: Path) -> None:
    folder = one_rank
    assert losses(folder, "accumulated") == pytest.approx(losses(folder, "one-0"), rel=1e-6)
    assert norms(folder, "accumulated") == pytest.approx(norms(folder, "one-0"), rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_accumulate_what_one_batch_gives(one_rank: Path, two_ranks: Path, stage: int) -> None:
    folder, name = two_ranks, f"two-accumulated-{stage}"
    assert one_rank == folder
    assert losses(folder, name) == pytest.approx(losses(folder, "one-0"), rel=1e-6)
    assert norms(folder, name) == pytest.approx(norms(folder, "one-0"), rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_has_the_controlnet_as_it_was(two_ranks: Path, stage: int) -> None:
    run = f"two-{stage}"
    early, last = (weights(two_ranks, f"{run}/checkpoint-{update}") for update in (2, 4))
    end = weights(two_ranks, run)
    assert all(torch.equal(last[name], end[name]) for name in end)
    assert not all(torch.equal(early[name], end[name]) for name in end)


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_goes_on_bit_by_bit(resumed: Path, stage: int) -> None:
    folder = resumed
    assert losses(folder, f"resumed-{stage}") == losses(folder, f"two-{stage}")
    straight, again = weights(folder, f"two-{stage}"), weights(folder, f"resumed-{stage}")
    assert straight.keys() == again.keys()
    assert all(torch.equal(straight[name], again[name]) for name in straight)


@pytest.mark.parametrize("stage", STAGES)
def test_another_number_of_workers_goes_on(on_fewer_ranks: Path, stage: int) -> None:
    folder = on_fewer_ranks
    assert losses(folder, f"fewer-{stage}") == pytest.approx(losses(folder, f"two-{stage}"), rel=1e-6)
    straight, again = weights(folder, f"two-{stage}"), weights(folder, f"fewer-{stage}")
    for name, tensor in straight.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=A_TENTH_OF_AN_UPDATE)
