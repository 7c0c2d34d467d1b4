"""What a ControlNet is measured on, found from files before anything is loaded."""

import json
from pathlib import Path

import pytest

from controlmill.config.base import validate
from controlmill.config.evaluate import EvaluateConfig
from controlmill.errors import ConfigError, RunUnusableError
from training.evaluate import subject_of


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "controlnet").mkdir(parents=True)
    known = {
        "train_data_dir": "data",
        "condition": ["canny"],
        "pretrained_model_name_or_path": "base",
        "resolution": 128,
        "learning_rate": 1e-5,
    }
    (folder / "config.json").write_text(json.dumps(known))
    (folder / "controlnet" / "config.json").write_text(json.dumps({"_class_name": "ControlNetModel"}))
    (folder / "probe_rows.jsonl").write_text(json.dumps({"update": 0, "keys": ["a", "b", "c"]}) + "\n")
    return folder


@pytest.mark.parametrize("part", ["", "controlnet"])
def test_a_run_knows_what_it_was_trained_on(run: Path, part: str) -> None:
    found = subject_of(EvaluateConfig(controlnet=str(run / part)))
    assert (found.net, found.base, found.report) == (run / "controlnet", "base", run / "evaluation.json")
    assert (found.data.train_data_dir, found.data.condition, found.data.resolution) == ("data", ("canny",), 128)
    assert (found.keys, found.num_held_out) == (("a", "b", "c"), 3)


def test_what_is_given_counts(run: Path) -> None:
    found = subject_of(EvaluateConfig(controlnet=str(run), train_data_dir="other", resolution=64, out="found.json"))
    assert (found.data.train_data_dir, found.data.resolution, found.report) == ("other", 64, Path("found.json"))
    # which rows of another dataset the run has seen is not known
    assert found.keys == ()


def test_a_controlnet_alone_needs_the_rest(run: Path) -> None:
    net = (run / "controlnet").rename(run.parent / "alone")
    with pytest.raises(ConfigError, match="train_data_dir, condition, pretrained_model_name_or_path: to be given"):
        subject_of(EvaluateConfig(controlnet=str(net)))
    given = {"train_data_dir": "data", "condition": "hed", "pretrained_model_name_or_path": "base"}
    found = subject_of(validate(EvaluateConfig, {"controlnet": str(net), **given}))
    assert (found.net, found.data.condition, found.num_held_out) == (net, ("hed",), 0)


def test_a_run_that_has_not_ended(run: Path) -> None:
    (run / "controlnet" / "config.json").unlink()
    (run / "controlnet").rmdir()
    with pytest.raises(RunUnusableError, match="has not left a ControlNet yet"):
        subject_of(EvaluateConfig(controlnet=str(run)))


def test_a_report_is_json() -> None:
    with pytest.raises(ConfigError, match="out: give a file that ends in .json"):
        validate(EvaluateConfig, {"controlnet": "run", "out": "found.txt"})
