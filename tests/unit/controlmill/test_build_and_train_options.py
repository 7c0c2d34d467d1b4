"""The options of everything at once: said once, and refused where the parts do not fit."""

from typing import Any

import pytest

from controlmill.cli.settings import assemble
from controlmill.config import BuildAndTrainConfig, EncodeConfig, TrainConfig, validate
from controlmill.errors import ConfigError

BUILD = {"url_list": "urls.txt", "output_folder": "there", "annotators": ["canny"], "ray_address": "head:6379"}
TRAIN = {"condition": "canny", "pretrained_model_name_or_path": "base", "output_dir": "run"}


def made(build: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **more: Any) -> BuildAndTrainConfig:
    return validate(
        BuildAndTrainConfig, {"build": {**BUILD, **(build or {})}, "train": {**TRAIN, **(train or {})}, **more}
    )


def test_dataset_and_ray_are_named_once() -> None:
    config = made()
    assert isinstance(config.train, TrainConfig)
    assert (config.train.train_data_dir, config.train.ray_address) == ("there", "head:6379")
    again = BuildAndTrainConfig.model_validate(config.model_dump(mode="json"))
    assert again == config


def test_what_is_encoded_is_what_is_trained_on() -> None:
    encoding = made(train={"resolution": 256, "random_flip": True, "caption_column": "caption.caption"}).encoding
    assert isinstance(encoding, EncodeConfig)
    assert (encoding.resolution, encoding.random_flip, encoding.caption_column) == (256, True, "caption.caption")
    assert (encoding.output_folder, encoding.ray_address, encoding.batch_size) == ("there", "head:6379", 8)
    assert made(encode=False).encoding is None
    assert made(train={"cached_layers": "ignore"}).encoding is None


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"train": {"train_data_dir": "elsewhere"}}, "train.train_data_dir: elsewhere"),
        ({"train": {"condition": "hed"}}, "does not make hed"),
        ({"train": {"ray_address": "other:1"}}, "train.ray_address"),
        ({"train": {"metrics_port": 9109}}, "give build.metrics_port"),
        ({"build": {"incremental_mode": "overwrite"}, "train": {"additional_train_steps": 5}}, "overwrite"),
        ({"train": {"additional_train_steps": 5, "max_train_steps": 9}}, "not both"),
        ({"train": {"additional_train_steps": 5, "resume_from_checkpoint": "checkpoint-4"}}, "latest"),
        ({"export_cldm": "control.ckpt"}, ".safetensors"),
        ({"train": {"output_dir": "s3://bucket/run"}, "export_cldm": "c.safetensors"}, "local disk"),
        ({"build": {"image_sise": 3}}, "image_sise"),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text.replace(".", r"\.")):
        made(**given)


def test_the_command_line_lays_options_of_the_parts_over_a_file(tmp_path: Any) -> None:
    path = tmp_path / "both.yaml"
    path.write_text("build: {url_list: u.txt, output_folder: d, annotators: [a.py:Mine]}\ntrain: {condition: canny}\n")
    words = [
        str(path),
        "build.annotators=[canny]",
        "train.pretrained_model_name_or_path=base",
        "train.learning_rate=1e-4",
    ]
    config = assemble(BuildAndTrainConfig, words, {})
    assert config.build.annotators == ("canny",)
    assert config.train.learning_rate == 1e-4
    assert config.train.train_data_dir == "d"


def test_the_form_begins_with_what_has_to_be_said_and_asks_nothing_twice() -> None:
    schema = BuildAndTrainConfig.model_json_schema()
    assert list(schema["properties"])[:2] == schema["required"] == ["build", "train"]
    build, train = schema["$defs"]["BuildConfig"], schema["$defs"]["TrainPart"]
    assert list(build["properties"])[:2] == ["output_folder", "url_list"]
    assert set(build["properties"]) == set(type(made().build).model_fields)
    assert list(train["properties"])[:2] == ["train_data_dir", "condition"]
    assert set(train["required"]) == {"condition", "pretrained_model_name_or_path"}


def test_what_is_evaluated_is_the_run() -> None:
    assert made().evaluation is None
    evaluation = made(train={"mixed_precision": "bf16"}, evaluate=True).evaluation
    assert evaluation is not None
    assert (evaluation.controlnet, evaluation.mixed_precision) == ("run", "bf16")
