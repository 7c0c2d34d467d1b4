"""Hints and prompts for generating, from files and from a dataset."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from controlmill.config import validate
from controlmill.config.sample import SampleConfig
from controlmill.errors import ConfigError
from controlmill.testing.training_set import write_training_set
from training.hint_files import Hint, prompts_of, read_hints


def config(**values: object) -> SampleConfig:
    return validate(SampleConfig, {"controlnet": "net", "output": "out", **values})


def write_map(path: Path, width: int, height: int) -> str:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 2] = 255  # red on the left, in OpenCV's order
    cv2.imwrite(str(path), pixels)
    return str(path)


def test_a_file_is_rgb_in_0_1_and_cut_to_whole_latents(tmp_path: Path) -> None:
    (hint,) = read_hints(config(hint=[write_map(tmp_path / "left.png", 70, 67)]), 1)
    assert (hint.name, hint.caption) == ("left", None)
    assert hint.maps[0].shape == (3, 64, 64)
    assert hint.maps[0][:, 5, 5].tolist() == [1.0, 0.0, 0.0]
    assert hint.maps[0][:, 5, -5].tolist() == [0.0, 0.0, 0.0]


def test_a_file_is_scaled_to_the_resolution_with_its_proportions(tmp_path: Path) -> None:
    (hint,) = read_hints(config(hint=[write_map(tmp_path / "a.png", 300, 200)], resolution=64), 1)
    assert hint.maps[0].shape == (3, 64, 96)


def test_files_of_several_conditions_are_joined(tmp_path: Path) -> None:
    one, two = write_map(tmp_path / "a.png", 64, 64), write_map(tmp_path / "b.png", 64, 64)
    (hint,) = read_hints(config(hint=[f"{one}+{two}"]), 2)
    assert len(hint.maps) == 2
    with pytest.raises(ConfigError, match=r"takes 2 hints; join their files by \+"):
        read_hints(config(hint=[one]), 2)
    with pytest.raises(ConfigError, match="different sizes"):
        read_hints(config(hint=[f"{one}+{write_map(tmp_path / 'c.png', 96, 64)}"]), 2)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"<html>")
    with pytest.raises(ConfigError, match=r"no\.png is not an image"):
        read_hints(config(hint=[str(tmp_path / "no.png")]), 1)
    with pytest.raises(ConfigError, match="cannot read /nowhere"):
        read_hints(config(hint=["/nowhere.png"]), 1)
    with pytest.raises(ConfigError, match="7 x 7 pixels are too few"):
        read_hints(config(hint=[write_map(tmp_path / "dot.png", 7, 7)]), 1)


def test_rows_of_a_dataset_bring_their_captions(tmp_path: Path) -> None:
    dataset = write_training_set(tmp_path, num_rows=40, size=64)
    asked = config(dataset=dataset, condition=["canny"], num_rows=3, resolution=64, prompt_kinds=["automatic"])
    hints = read_hints(asked, 1)
    assert len(hints) == 3
    assert all(hint.maps[0].shape == (3, 64, 64) and 0 < float(hint.maps[0].mean()) < 0.5 for hint in hints)
    assert [prompts[0] for prompts in prompts_of(asked, hints)] == [hint.caption or "" for hint in hints]
    assert any("disc" in (hint.caption or "") for hint in hints)
    with pytest.raises(ConfigError, match="takes 2, not 1"):
        read_hints(asked, 2)


def test_the_four_kinds_of_prompts() -> None:
    hints = [Hint("a", (torch.zeros(3, 8, 8),), "a red disc"), Hint("b", (torch.zeros(3, 8, 8),), None)]
    asked = config(
        dataset="d", condition=["canny"], num_rows=2, prompt="own, one", added_prompt="best quality",
        prompt_kinds=["none", "default", "automatic", "own"],
    )  # fmt: skip
    default = "a professional, detailed, high-quality image, best quality"
    assert prompts_of(asked, hints) == [
        ["", default, "a red disc, best quality", "own, one, best quality"],
        ["", default, "", "own, one, best quality"],
    ]


def test_options_that_contradict_each_other_are_refused() -> None:
    assert config(hint=["a.png"]).kinds == ("none",)
    assert config(hint=["a.png"], prompt="x").kinds == ("own",)
    for values, message in (
        ({}, "give hint, or dataset and condition"),
        ({"hint": ["a"], "dataset": "d", "condition": ["canny"]}, "give hint, or dataset"),
        ({"dataset": "d"}, "condition: goes with dataset"),
        ({"hint": ["a"], "prompt_kinds": ["automatic"]}, "automatic prompts are a dataset's captions"),
        ({"hint": ["a"], "prompt_kinds": ["own"]}, "own goes with prompt"),
    ):
        with pytest.raises(ConfigError, match=message):
            config(**values)
