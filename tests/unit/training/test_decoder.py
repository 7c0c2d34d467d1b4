"""The base's decoder where it was trained too: what it begins with, and who uses it afterwards."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from controlmill.config import TrainConfig, validate
from controlmill.config.sample import SampleConfig
from training.base_model import BaseModel
from training.controlnet import create
from training.decoder import DECODER_FILE, DecoderTraining, take_over, trained_beside
from training.sample_run import run_sample

Tiny = Callable[..., Path]


def config(base: Path) -> TrainConfig:
    values = {"train_data_dir": "d", "condition": ("canny",), "pretrained_model_name_or_path": str(base)}
    return validate(TrainConfig, {**values, "sd_locked": False})


def test_it_begins_with_what_the_file_has_in_bf16_too(tiny_sd: Tiny) -> None:
    exact = BaseModel.load(str(tiny_sd()), parts=["unet"]).unet.state_dict()
    base = BaseModel.load(str(tiny_sd()), parts=["unet"], dtype=torch.bfloat16)
    DecoderTraining(base, config(tiny_sd()))
    assert base.unet.dtype == torch.float32
    assert all(torch.equal(tensor, exact[name]) for name, tensor in base.unet.state_dict().items())
    open_ones = {name for name, parameter in base.unet.named_parameters() if parameter.requires_grad}
    assert open_ones == base.decoder_parameters().keys()


@pytest.fixture
def run(tiny_sd: Tiny, tmp_path: Path) -> Path:
    """What a run with an unlocked decoder leaves, and a checkpoint of it."""
    base = BaseModel.load(str(tiny_sd()), parts=["unet"])
    decoder = DecoderTraining(base, config(tiny_sd()))
    folder = tmp_path / "run"
    nets = create(base, config(tiny_sd()), seed=0)
    nets.save(folder / "controlnet")
    nets.save(folder / "checkpoint-2" / "controlnet")
    with torch.no_grad():
        base.unet.conv_out.weight.mul_(3.0)
    base.unet.save_pretrained(folder / "unet")
    torch.save(decoder.state_dict(), folder / "checkpoint-2" / DECODER_FILE)
    (folder / "config.json").write_text(json.dumps({"pretrained_model_name_or_path": str(tiny_sd())}))
    return folder


def sampled(controlnet: Path, output: Path, **options: object) -> bytes:
    hint = output.with_suffix(".png")
    cv2.imwrite(str(hint), np.zeros((64, 64, 3), np.uint8))
    values = {"controlnet": str(controlnet), "output": str(output), "hint": [str(hint)], "num_inference_steps": 2}
    return run_sample(validate(SampleConfig, {**values, "device": "cpu", **options}))[1].read_bytes()


def test_sample_takes_the_decoder_of_the_run(run: Path, tiny_sd: Tiny, tmp_path: Path) -> None:
    retrained = tmp_path / "retrained"
    shutil.copytree(tiny_sd(), retrained)
    shutil.rmtree(retrained / "unet")
    shutil.copytree(run / "unet", retrained / "unet")
    shutil.copytree(run / "controlnet", tmp_path / "alone" / "controlnet")
    alone = tmp_path / "alone" / "controlnet"
    expected = sampled(alone, tmp_path / "expected", pretrained_model_name_or_path=str(retrained))
    locked = sampled(alone, tmp_path / "locked", pretrained_model_name_or_path=str(tiny_sd()))
    assert expected != locked
    assert sampled(run / "controlnet", tmp_path / "of-run") == expected
    assert sampled(run / "checkpoint-2" / "controlnet", tmp_path / "of-checkpoint") == expected
    given = f"{tiny_sd()}/../{tiny_sd().name}"
    assert sampled(run / "controlnet", tmp_path / "given", pretrained_model_name_or_path=given) == expected


def test_another_base_keeps_its_own_decoder(run: Path, tiny_sd: Tiny, tmp_path: Path) -> None:
    other = str(tiny_sd("sd1", 1))
    shutil.copytree(run / "controlnet", tmp_path / "alone" / "controlnet")
    alone = sampled(tmp_path / "alone" / "controlnet", tmp_path / "one", pretrained_model_name_or_path=other)
    assert sampled(run / "controlnet", tmp_path / "two", pretrained_model_name_or_path=other) == alone


def test_a_locked_run_has_none(run: Path, tiny_sd: Tiny) -> None:
    trained = trained_beside(run / "controlnet")
    assert trained == run / "unet"
    base = BaseModel.load(str(tiny_sd()), parts=["unet"], dtype=torch.bfloat16)
    take_over(base, trained)
    assert base.unet.dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in base.unet.parameters())
    shutil.rmtree(run / "unet")
    assert trained_beside(run / "controlnet") is None
