"""Command lines of img2dataset, pasted."""

import shlex

import pytest

from controlmill.cli.img2dataset import DEFAULTS, MISSING, NOTES
from controlmill.cli.settings import ConfigCommand
from controlmill.config import BuildConfig
from controlmill.errors import ConfigError


def parsed(words: str) -> BuildConfig:
    caught: list[BuildConfig] = []
    command = ConfigCommand("build", BuildConfig, lambda config, _: caught.append(config), text="")
    command.main(shlex.split(words), standalone_mode=False)
    return caught[0]


def test_the_first_example_of_its_readme() -> None:
    config = parsed("--url_list=myimglist.txt --output_folder=output_folder --thread_count=64 --image_size=256")
    assert config.model_dump(exclude_unset=True) == {
        "url_list": "myimglist.txt",
        "output_folder": "output_folder",
        "thread_count": 64,
        "image_size": 256,
    }


def test_a_line_of_its_dataset_examples() -> None:
    config = parsed(
        """--url_list coyo-700m --input_format "parquet"\
         --url_col "url" --caption_col "text" --output_format parquet\
           --output_folder coyo-700m-parquet --processes_count 16 --thread_count 64 --image_size 384\
            --resize_only_if_bigger=True --resize_mode="keep_ratio" --skip_reencode=True \
             --save_additional_columns '["clip_similarity_vitb32","nsfw_score_gantman"]' --enable_wandb False"""
    )
    assert config.model_dump(exclude_unset=True) == {
        "url_list": "coyo-700m",
        "input_format": "parquet",
        "url_col": "url",
        "caption_col": "text",
        "output_folder": "coyo-700m-parquet",
        "processes_count": 16,
        "thread_count": 64,
        "image_size": 384,
        "resize_only_if_bigger": True,
        "resize_mode": "keep_ratio",
        "skip_reencode": True,
        "save_additional_columns": ("clip_similarity_vitb32", "nsfw_score_gantman"),
    }


def test_every_option_that_asks_for_something_else_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(
            """--url_list laion-art --input_format "parquet" --url_col "URL" --caption_col "TEXT" \
            --output_format webdataset --output_folder laion --processes_count 16 --thread_count 64 --image_size 384 \
            --resize_only_if_bigger=True --resize_mode="keep_ratio" --skip_reencode=True \
            --save_additional_columns '["similarity","hash"]' --enable_wandb True \
            --user_agent_token img2dataset --disallowed_header_directives '[]'"""
        )
    assert str(caught.value) == (
        "output_format: controlmill writes Parquet layers only; leave the option out or give parquet (got webdataset); "
        "enable_wandb: controlmill does not log to Weights & Biases; its totals are in "
        "`controlmill inspect DATASET --json` (got True)"
    )


NEEDED = "--url_list urls.txt --output_folder out"


@pytest.mark.parametrize("option", DEFAULTS)
def test_every_option_of_img2dataset_is_ours_or_answered(option: str) -> None:
    assert (option in BuildConfig.model_fields) is not (option in MISSING)


@pytest.mark.parametrize(
    "words",
    [
        "--output_format parquet",
        "output_format=parquet",
        "--bbox_col None",
        "--enable_wandb False",
        "--enable_wandb=False --wandb_project mine",
        "--oom_shard_count 5",
        "--distributor multiprocessing",
        "--distributor ray",
        "--subjob_size 500",
        "--disable_all_reencoding False",
    ],
)
def test_what_asks_for_what_is_done_anyway_is_accepted(words: str) -> None:
    assert parsed(f"{NEEDED} {words}") == parsed(NEEDED)


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("--output_format webdataset", "output_format"),
        ("output_format=files", "output_format"),
        ("--bbox_col boxes", "bbox_col"),
        ("--enable_wandb", "enable_wandb"),
        ("--enable_wandb True", "enable_wandb"),
        ("--oom_shard_count 6", "oom_shard_count"),
        ("--distributor pyspark", "distributor"),
        ("--disable_all_reencoding True", "disable_all_reencoding"),
    ],
)
def test_what_asks_for_something_else_is_named(words: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"^{option}: "):
        parsed(f"{NEEDED} {words}")


def test_defaults_are_the_same_unless_a_note_says_so() -> None:
    differing = set()
    for option, default in DEFAULTS.items():
        if option in BuildConfig.model_fields:
            ours = BuildConfig.model_fields[option].get_default(call_default_factory=True)
            plain = (list(ours) or None) if isinstance(ours, tuple) else ours
            if plain != default:
                differing.add(option)
    assert differing <= set(NOTES)
    assert {"image_size", "resize_mode"} < differing
