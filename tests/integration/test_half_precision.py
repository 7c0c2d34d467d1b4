"""fp16, whose range gradients leave at first: updates are skipped until the loss scale is right, and never silently."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from controlmill.testing.ranks import run_options, train_on_ranks
from controlmill.testing.tiny_sd import write_tiny_sd
from controlmill.testing.training_set import write_training_set

NUM_UPDATES = 12
STAGES = (0, 1, 2, 3)
UNET = "unet/diffusion_pytorch_model.safetensors"
WEIGHTS = "controlnet/diffusion_pytorch_model.safetensors"


def config(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    own = {"mixed_precision": "fp16", "max_train_steps": NUM_UPDATES, "checkpointing_steps": 2}
    return run_options(folder, name, **{**own, **options})


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With runs of every ZeRO stage on a base whose loss is so large that the first scales overflow."""
    folder = tmp_path_factory.mktemp("half")
    write_tiny_sd(folder / "base", unet_widths=(16, 16, 16, 16))
    tensors = load_file(folder / "base" / UNET)
    tensors["conv_out.weight"] *= 40.0
    save_file(tensors, folder / "base" / UNET, {"format": "pt"})
    write_training_set(folder, num_rows=24, size=64)
    configs = [config(folder, f"stage-{stage}", zero_stage=stage) for stage in STAGES]
    outcomes = train_on_ranks(
        1, [*configs, config(folder, "untrained", mixed_precision="no", learning_rate=1e-12)], folder / "ranks"
    )
    assert [outcome.get("update") for outcome in outcomes] == [NUM_UPDATES] * len(outcomes), outcomes
    return folder


def test_a_run_that_overflows_goes_on(folder: Path) -> None:
    skipped = [line["update"] for line in lines(folder, "stage-0") if line["gradient_norm"] is None]
    assert 2 < len(skipped) < NUM_UPDATES - 2
    # the scale is halved until it fits: what was skipped is the beginning, in one piece
    assert skipped == list(range(1, len(skipped) + 1))
    # and the first update that is taken begins with the weights that the run began with
    untrained = [line["loss"] for line in lines(folder, "untrained")]
    trained = [line["loss"] for line in lines(folder, "stage-0")]
    assert trained[: len(skipped) + 1] == pytest.approx(untrained[: len(skipped) + 1], rel=0.02)
    assert trained[len(skipped) + 1 :] != pytest.approx(untrained[len(skipped) + 1 :], rel=0.02)


@pytest.mark.parametrize("stage", STAGES[1:])
def test_every_zero_stage_has_the_same_norms_and_losses(folder: Path, stage: int) -> None:
    expected, found = lines(folder, "stage-0"), lines(folder, f"stage-{stage}")
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in expected], rel=1e-2)
    norms = [(one["gradient_norm"], two["gradient_norm"]) for one, two in zip(found, expected, strict=True)]
    assert all((one is None) == (two is None) for one, two in norms)
    taken = [pair for pair in norms if pair[0] is not None]
    assert [one for one, _ in taken] == pytest.approx([two for _, two in taken], rel=2e-2)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_goes_on_bit_by_bit_with_its_loss_scale(folder: Path, stage: int) -> None:
    again = f"again-{stage}"
    shutil.copytree(folder / f"stage-{stage}", folder / again)
    for update in range(4, NUM_UPDATES + 1, 2):
        shutil.rmtree(folder / again / f"checkpoint-{update}")
    shutil.rmtree(folder / again / "controlnet")
    options = config(folder, again, zero_stage=stage, resume_from_checkpoint="latest")
    (outcome,) = train_on_ranks(1, [options], folder / f"ranks-{again}")
    assert outcome.get("update") == NUM_UPDATES, outcome
    for name in ("gradient_norm", "loss"):
        assert [line[name] for line in lines(folder, again)] == [
            line[name] for line in lines(folder, f"stage-{stage}")
        ], name
    one, two = load_file(folder / f"stage-{stage}" / WEIGHTS), load_file(folder / again / WEIGHTS)
    assert all(torch.equal(one[name], two[name]) for name in one)
