"""Options name what is wrong with them."""

from pathlib import Path

import pytest

from controlmill.config import (
    AnnotateConfig,
    BuildConfig,
    LayerOptions,
    RetryConfig,
    load_yaml,
    parse_overrides,
    validate,
)
from controlmill.config.base import Options
from controlmill.errors import ConfigError

GIVEN = {"url_list": "urls.txt", "output_folder": "out"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": "wide"}, "image_size: Input should be a valid integer"),
        ({"image_size": 500}, "image_size: 500 is not a multiple of size_multiple 64"),
        ({"image_size": 0}, "image_size: Input should be greater than 0 (got 0)"),
        ({"resize_mode": "bordr"}, "did you mean border?"),
        ({"encode_quality": 101}, "encode_quality: jpg takes 0 to 100, not 101"),
        ({"encode_quality": 10, "encode_format": "png"}, "encode_quality: png takes 0 to 9, not 10"),
        ({"max_aspect_ratio": 0.5}, "max_aspect_ratio: must be at least 1"),
        ({"background_color": [1, 2, 256]}, "background_color.2: Input should be less than or equal to 255 (got 256)"),
        ({"verify_hash": ["column", "crc"]}, "verify_hash.1: Input should be 'md5', 'sha256' or 'sha512'"),
        ({"retries": -1}, "retries: Input should be greater than or equal to 0 (got -1)"),
        ({"image_folder": "pictures"}, "give exactly one of url_list, image_folder, from_img2dataset"),
        ({"url_list": None}, "got none"),
        ({"output_folder": ""}, "output_folder: String should have at least 1 character"),
        ({"colour": 1}, "colour: there is no such option"),
        ({"image_sise": 1}, "image_sise: there is no such option; did you mean image_size?"),
    ],
)
def test_refused_with_the_name_of_the_field(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(BuildConfig, GIVEN | values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"thread_count.*; timeout"):
        validate(BuildConfig, GIVEN | {"thread_count": 0, "timeout": -1})


def test_an_unknown_reason_is_the_only_complaint() -> None:
    with pytest.raises(ConfigError, match="did you mean timeout") as caught:
        validate(RetryConfig, {"output_folder": "out", "reason": ["timeot"]})
    assert ";" not in str(caught.value).removesuffix("; did you mean timeout?")
    with pytest.raises(ConfigError, match="reason: Tuple should have at least 1 item"):
        validate(RetryConfig, {"output_folder": "out", "reason": []})


@pytest.mark.parametrize(
    ("reason", "remedy"), [("annotator_error", "controlmill annotate"), ("captioner_error", "controlmill caption")]
)
def test_a_reason_of_a_layer_is_refused_with_the_remedy(reason: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=f"^reason: {reason} is why .*run `{remedy}`") as caught:
        validate(RetryConfig, {"output_folder": "out", "reason": ["timeout", reason]})
    assert "timeout" not in str(caught.value)


def test_options_cannot_be_changed() -> None:
    config = validate(BuildConfig, GIVEN)
    with pytest.raises(ValueError, match="frozen"):
        config.image_size = 64  # type: ignore[misc]


@pytest.mark.parametrize("model", [BuildConfig, AnnotateConfig, RetryConfig])
def test_every_option_is_described(model: type[Options]) -> None:
    for name, info in model.model_fields.items():
        assert info.description, name
        assert info.description.endswith((".", "].", "}.")), name


def test_yaml_no_is_a_resize_mode() -> None:
    values = parse_overrides(["resize_mode=no"])
    assert validate(BuildConfig, GIVEN | values).resize_mode == "no"


def test_yaml_files(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("url-list: urls.txt\nimage_size: 64\n")
    assert load_yaml(str(path)) == {"url_list": "urls.txt", "image_size": 64}
    path.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="mapping of option names"):
        load_yaml(str(path))
    path.write_text("a: [1\n")
    with pytest.raises(ConfigError, match=r"not valid YAML: .*line 2"):
        load_yaml(str(path))
    path.write_text("")
    assert load_yaml(str(path)) == {}
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot read the config file: No such file"):
        load_yaml(str(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize("pair", ["image_size", "=3", "a=[1", "a=1"])
def test_bad_overrides(pair: str) -> None:
    with pytest.raises(ConfigError):
        parse_overrides([pair, "a.b=2"] if pair == "a=1" else [pair])


def test_an_annotator_that_is_named_twice_runs_once() -> None:
    assert LayerOptions(annotators=("canny", "canny")).annotators == ("canny",)


def test_options_of_an_annotator_that_does_not_run_are_refused() -> None:
    with pytest.raises(ConfigError, match="there are options for canny, but annotators does not name it"):
        validate(LayerOptions, {"annotator_options": {"canny": {"low_threshold": 3}}})


def test_captions_of_a_build_are_checked_before_anything_starts() -> None:
    config = validate(BuildConfig, GIVEN | {"captioner": "blip", "captioner_options": {"model": "small"}, "seed": 7})
    options = config.caption_options(config.seed)
    assert options is not None
    assert (options.captioner, options.model, options.seed) == ("blip", "small", 7)
    assert validate(BuildConfig, GIVEN).caption_options() is None


@pytest.mark.parametrize("captioner", ["blip", "lavis"])
def test_a_captioner_has_a_model_without_being_told(captioner: str) -> None:
    options = validate(BuildConfig, GIVEN | {"captioner": captioner}).caption_options()
    assert options is not None
    assert options.model == "Salesforce/blip-image-captioning-base"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"captioner_options": {"model": "small"}}, "there are options, but captioner names none"),
        ({"captioner": "blip", "captioner_options": {"model": "small", "num_beans": 3}}, "did you mean num_beams?"),
        ({"captioner": "clip"}, "captioner: Input should be 'blip' or 'lavis'"),
        ({"num_gpus": 1.5}, "num_gpus: above 1 it must be a whole number (got 1.5)"),
        ({"num_gpus": 0}, "num_gpus"),
        ({"device": "gpu"}, "device: Input should be 'auto', 'cpu' or 'cuda'"),
    ],
)
def test_networks_that_cannot_be(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(BuildConfig, GIVEN | values)
    assert message in str(caught.value)
