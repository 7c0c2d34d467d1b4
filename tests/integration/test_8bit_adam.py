"""Adam with 8-bit moments by the real bitsandbytes, which `make install` puts in a folder of its own."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from controlmill.testing.ranks import run_options, train_on_ranks
from controlmill.testing.tiny_sd import write_tiny_sd
from controlmill.testing.training_set import write_training_set

BITSANDBYTES = Path(sys.prefix) / "bitsandbytes"
EIGHT_BITS = {"use_8bit_adam": True, "zero_stage": 2, "checkpointing_steps": 2}


def config(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    return run_options(folder, name, max_train_steps=4, **options)


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_it_keeps_near_adamw_and_goes_on_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_sd(tmp_path / "base", unet_widths=(16, 16, 16, 16))
    write_training_set(tmp_path, num_rows=24, size=64)
    # after that, so that this process, in which other tests run, does not import it
    monkeypatch.syspath_prepend(str(BITSANDBYTES))
    first = [config(tmp_path, "adamw"), config(tmp_path, "whole", **EIGHT_BITS)]
    outcomes = train_on_ranks(1, first, tmp_path / "ranks", fresh=True)
    assert [outcome.get("update") for outcome in outcomes] == [4, 4], outcomes
    assert losses(tmp_path / "whole")[0] == losses(tmp_path / "adamw")[0]  # before any moment was used
    assert losses(tmp_path / "whole")[1:] != losses(tmp_path / "adamw")[1:]
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "adamw"), rel=0.02)

    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    for done in ("checkpoint-4", "controlnet"):
        shutil.rmtree(tmp_path / "again" / done)
    again = config(tmp_path, "again", **EIGHT_BITS, resume_from_checkpoint="latest")
    (outcome,) = train_on_ranks(1, [again], tmp_path / "ranks-again", fresh=True)
    assert outcome.get("update") == 4, outcome
    assert losses(tmp_path / "again") == losses(tmp_path / "whole")
    one, two = (
        load_file(tmp_path / name / "controlnet" / "diffusion_pytorch_model.safetensors") for name in ("whole", "again")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
