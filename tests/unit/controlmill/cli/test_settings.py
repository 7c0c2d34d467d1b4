"""From words on a command line to a configuration."""

import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from controlmill.cli.build import changed_defaults
from controlmill.cli.options import CONTEXT_SETTINGS, spell_flags
from controlmill.cli.settings import ConfigCommand
from controlmill.config import AnnotateConfig, BuildConfig, Options, RetryConfig
from controlmill.errors import ConfigError
from controlmill.reasons import Reason


def parsed(words: str, model: type[Options] = BuildConfig, *, dataset: bool = False) -> Any:
    """The configuration that a command of `model` would run with."""
    caught: list[Options] = []
    command = ConfigCommand("command", model, lambda config, _: caught.append(config), text="", dataset=dataset)
    command.main(shlex.split(words), standalone_mode=False)
    assert len(caught) == 1
    return caught[0]


NEEDED = "--url-list urls.txt --output-folder out"


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("--image-size 256", "image_size", 256),
        ("--image_size 256", "image_size", 256),
        ("--image_size=256", "image_size", 256),
        ("image_size=256", "image_size", 256),
        ("image-size=256", "image_size", 256),
        ("--skip_reencode", "skip_reencode", True),
        ("--skip_reencode True", "skip_reencode", True),
        ("--skip_reencode=False", "skip_reencode", False),
        ("--no-skip-reencode", "skip_reencode", False),
        ("--no_skip_reencode", "skip_reencode", False),
        ("--noskip_reencode", "skip_reencode", False),
        ("--skip-reencode image_size=256", "skip_reencode", True),
        ("skip_reencode=True", "skip_reencode", True),
        ("--extract_exif=False", "extract_exif", False),
        ("--extract_exif False --skip_reencode", "extract_exif", False),
        ("--max_image_area inf", "max_image_area", float("inf")),
        ("--max_image_area 1e6", "max_image_area", 1e6),
        ("--caption_col None", "caption_col", None),
        ("caption_col=None", "caption_col", None),
        ("--compute_hash None", "compute_hash", None),
        ("""--save_additional_columns '["a","b"]'""", "save_additional_columns", ("a", "b")),
        ("--save_additional_columns a,b", "save_additional_columns", ("a", "b")),
        ("--save_additional_columns a --save-additional-columns b", "save_additional_columns", ("a", "b")),
        ("save_additional_columns=a,b", "save_additional_columns", ("a", "b")),
        ("--save_additional_columns None", "save_additional_columns", ()),
        ("--disallowed_header_directives '[]'", "disallowed_header_directives", ()),
        ("""--verify_hash '["md5","md5"]'""", "verify_hash", ("md5", "md5")),
        ("--background-color 0,0,0", "background_color", (0, 0, 0)),
        ("--resize_mode no", "resize_mode", "no"),
        ("resize_mode=no", "resize_mode", "no"),
        ("--processes_count 1 --thread_count 64", "thread_count", 64),
    ],
)
def test_spellings(words: str, field: str, value: object) -> None:
    assert getattr(parsed(f"{NEEDED} {words}"), field) == value


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("annotator_options.canny.low_threshold=50", {"low_threshold": 50}),
        ("--annotator-options canny.low_threshold=50", {"low_threshold": 50}),
        (
            """--annotator-options '{"canny": {"low_threshold": 1}}' --annotator-options canny.high_threshold=2""",
            {"low_threshold": 1, "high_threshold": 2},
        ),
    ],
)
def test_spellings_of_the_options_of_an_annotator(words: str, value: object) -> None:
    assert parsed(f"{NEEDED} --annotators canny {words}").annotator_options == {"canny": value}


def test_files_then_overrides_then_options(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "url-list: urls.txt\noutput_folder: from-file\nimage_size: 64\nthread_count: 1\nannotators: canny\n"
        "annotator_options:\n  canny:\n    low_threshold: 10\n    high_threshold: 20\n"
    )
    config = parsed(f"{path} image_size=128 thread_count=2 annotator_options.canny.low_threshold=11 --thread-count 3")
    assert (config.output_folder, config.image_size, config.thread_count) == ("from-file", 128, 3)
    assert config.annotators == ("canny",)
    assert config.annotator_options == {"canny": {"low_threshold": 11, "high_threshold": 20}}
    second = tmp_path / "second.yml"
    second.write_text("image_size: 192\n")
    assert parsed(f"{path} {second}").image_size == 192


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("image_sise=3", "image_sise: there is no such option; did you mean image_size?"),
        ("zzz=3", "zzz: there is no such option$"),
        ("--image_size big", "image_size: Input should be a valid integer.*got 'big'"),
        ("--skip_reencode=maybe", "skip_reencode: takes True or False"),
        ("urls.txt", "'urls.txt': neither a config file .* --url-list"),
        ("image_size.x=3", "image_size: Input should be a valid integer"),
        ("nowhere.yaml", "nowhere.yaml: cannot read the config file"),
    ],
)
def test_refusals(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parsed(f"{NEEDED} {words}")


def test_an_unknown_option_is_refused_with_a_suggestion() -> None:
    with pytest.raises(click.NoSuchOption, match="--image-sise") as caught:
        parsed("--image_sise 3")
    assert "--image-size" in caught.value.format_message()


def test_required() -> None:
    with pytest.raises(ConfigError, match="output_folder: Field required"):
        parsed("--url-list urls.txt")


def test_dataset_is_a_positional_where_there_is_one() -> None:
    config = parsed("DATA --annotators canny seed=3", AnnotateConfig, dataset=True)
    assert (config.output_folder, config.annotators, config.seed) == ("DATA", ("canny",), 3)
    config = parsed("s3://bucket/run=3 --reason timeout --reason dns,tls", RetryConfig, dataset=True)
    assert config.output_folder == "s3://bucket/run=3"
    assert config.reason == (Reason.TIMEOUT, Reason.DNS, Reason.TLS)
    with pytest.raises(ConfigError, match="DATASET"):
        parsed("--annotators canny", AnnotateConfig, dataset=True)
    with pytest.raises(ConfigError, match="'B': neither"):
        parsed("A B", AnnotateConfig, dataset=True)


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        (["--skip-reencode", "True"], ["--skip-reencode"]),
        (["--skip_reencode", "config.yaml"], ["--skip-reencode", "config.yaml"]),
        (["--skip_reencode=0"], ["--no-skip-reencode"]),
        (["--noskip_reencode", "True"], ["--no-skip-reencode"]),
        (["--url_col", "True"], ["--url_col", "True"]),
        (["--", "--skip_reencode", "True"], ["--", "--skip_reencode", "True"]),
    ],
)
def test_spell_flags(given: list[str], spelled: list[str]) -> None:
    assert spell_flags(given, frozenset({"skip_reencode"})) == spelled


def test_help_has_every_option_under_the_heading_of_its_group() -> None:
    command = ConfigCommand("build", BuildConfig, lambda *_: None, text="")
    context = click.Context(command, info_name="build", terminal_width=100, **CONTEXT_SETTINGS)
    text = command.get_help(context)
    headings = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Dataset:", "Source:", "Pull:", "Image:", "Layer:", "Captioner:", "Engine:", "General:"]
    for field in BuildConfig.model_fields:
        assert f"--{field.replace('_', '-')}" in text, field
    words = " ".join(text.split())
    assert "Side of the output in pixels (img2dataset: 256). [default: 512]" in words
    assert "--wandb-project" not in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "",
            (
                "note: using image_size 512 and resize_mode center_crop, which is not img2dataset's default; "
                "--image-size 256 --resize-mode border gives img2dataset's"
            ),
        ),
        (
            "--image_size 512",
            (
                "note: using resize_mode center_crop, which is not img2dataset's default; "
                "--resize-mode border gives img2dataset's"
            ),
        ),
        ("--image_size 256 --resize_mode center_crop", None),
    ],
)
def test_changed_defaults_are_said_unless_they_were_given(words: str, said: str | None) -> None:
    assert changed_defaults(parsed(f"{NEEDED} {words}")) == said
