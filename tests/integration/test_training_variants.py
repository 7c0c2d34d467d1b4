"""Bases, conditions and places of every kind, each in a real run: SDXL, v-prediction, several conditions, S3."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import load_file

from controlmill.testing.ranks import run_options, train_on_ranks
from controlmill.testing.s3 import BUCKET, S3Server
from controlmill.testing.tiny_sd import write_tiny_sd
from controlmill.testing.training_set import write_training_set

WEIGHTS = "diffusion_pytorch_model.safetensors"
CONDITIONS = ["canny", "lineart_standard"]
RUNS: dict[str, dict[str, Any]] = {
    "sdxl": {"base": "sdxl"},
    "velocity": {"base": "sd2", "snr_gamma": 5.0},
    "summed": {"condition": CONDITIONS},
    "stacked": {"condition": CONDITIONS, "several_conditions": "stack"},
    "middle_only": {"only_mid_control": True},
    "paper_v1": {"hint_network": "v1", "connection_init": "gaussian"},
    "offloaded": {"zero_stage": 2, "offload_optimizer": "cpu"},
    "plain": {},
    "averaged": {"use_ema": True},
}


def config(folder: Path, name: str, *, base: str = "sd1", **options: Any) -> dict[str, Any]:
    own = {"max_train_steps": 3, "pretrained_model_name_or_path": str(folder / base)}
    return run_options(folder, name, **{**own, **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variants")
    for kind in ("sd1", "sd2", "sdxl"):
        write_tiny_sd(folder / kind, kind)
    write_training_set(folder, num_rows=24, size=64, annotators=tuple(CONDITIONS))
    return folder


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    configs = [config(folder, name, **options) for name, options in RUNS.items()]
    return dict(zip(RUNS, train_on_ranks(1, configs, folder / "ranks"), strict=True))


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", RUNS)
def test_it_trains_and_leaves_a_controlnet(outcomes: dict[str, dict[str, Any]], folder: Path, name: str) -> None:
    assert outcomes[name].get("update") == 3, outcomes[name]
    assert len(losses(folder / name)) == 3
    assert (folder / name / "controlnet" / WEIGHTS).is_file()


def test_one_net_for_each_condition_or_one_with_all_hints(outcomes: dict[str, dict[str, Any]], folder: Path) -> None:
    assert outcomes["summed"]["update"] == outcomes["stacked"]["update"] == 3
    assert (folder / "summed" / "controlnet_1" / WEIGHTS).is_file()
    stacked = load_file(folder / "stacked" / "controlnet" / WEIGHTS)
    assert stacked["controlnet_cond_embedding.conv_in.weight"].shape[1] == 6
    assert not (folder / "stacked" / "controlnet_1").exists()


def test_an_offloaded_optimizer_makes_the_same_steps(outcomes: dict[str, dict[str, Any]], folder: Path) -> None:
    assert outcomes["offloaded"]["update"] == 3
    assert losses(folder / "offloaded") == pytest.approx(losses(folder / "plain"), rel=1e-5)


def test_the_averaged_weights_are_exported(outcomes: dict[str, dict[str, Any]], folder: Path) -> None:
    assert outcomes["averaged"]["update"] == 3
    assert losses(folder / "averaged") == losses(folder / "plain")
    averaged, plain = (load_file(folder / name / "controlnet" / WEIGHTS) for name in ("averaged", "plain"))
    assert any(not torch.equal(averaged[name], plain[name]) for name in plain)


def test_an_unlocked_decoder_is_the_same_on_one_and_two_ranks(folder: Path) -> None:
    options = {"sd_locked": False, "decoder_learning_rate": 1e-3}
    one = config(folder, "alone", **{**options, "train_batch_size": 4})
    two = config(folder, "together", **options)
    (alone,) = train_on_ranks(1, [one], folder / "ranks-1")
    (together,) = train_on_ranks(2, [two], folder / "ranks-2")
    assert alone.get("update") == together.get("update") == 3, (alone, together)
    assert losses(folder / "together") == pytest.approx(losses(folder / "alone"), rel=1e-5)
    first, second = (load_file(folder / name / "unet" / WEIGHTS) for name in ("alone", "together"))
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], atol=1e-4), name


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with S3Server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        fsspec.config.set_conf_env(fsspec.config.conf)
        yield f"s3://{BUCKET}"
        fsspec.config.conf.pop("s3", None)


def test_a_run_on_s3_goes_on_from_there(folder: Path, bucket: str) -> None:
    files = fsspec.filesystem("s3")
    files.put(str(folder / "dataset"), f"{BUCKET}/dataset", recursive=True)
    there = {"train_data_dir": f"{bucket}/dataset", "output_dir": f"{bucket}/run", "checkpointing_steps": 2}
    begun = config(folder, "", **{**there, "max_train_steps": 2, "zero_stage": 2})
    ended = config(folder, "", **{**there, "zero_stage": 2, "resume_from_checkpoint": "latest"})
    here = config(folder, "on_disk", zero_stage=2)
    *_, expected = outcomes = train_on_ranks(2, [begun, ended, here], folder / "ranks-s3", fresh=True)
    assert [outcome.get("update") for outcome in outcomes] == [2, 3, 3], outcomes
    assert expected["samples_seen"] == 12
    lines = files.cat_file(f"{BUCKET}/run/metrics.jsonl").decode().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == losses(folder / "on_disk")
    files.get(f"{BUCKET}/run/controlnet/{WEIGHTS}", str(folder / "from_s3.safetensors"))
    one, two = load_file(folder / "from_s3.safetensors"), load_file(folder / "on_disk" / "controlnet" / WEIGHTS)
    assert all(torch.equal(one[name], two[name]) for name in two)
