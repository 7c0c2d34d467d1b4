"""A command line of diffusers' train_controlnet.py after `controlmill train`."""

import shlex
from typing import Any

import click
import pytest

from controlmill.cli.diffusers import DEFAULTS, MISSING, NOTES, PEER
from controlmill.cli.options import default_text
from controlmill.cli.settings import ConfigCommand
from controlmill.config import TrainConfig
from controlmill.errors import ConfigError

# the command line of its README, for a dataset of layers
PASTED = """
 --pretrained_model_name_or_path=BASE --output_dir=RUN --train_data_dir=DATASET --conditioning_image_column=canny
 --caption_column=text --resolution=512 --learning_rate=1e-5 --train_batch_size=1 --gradient_accumulation_steps=4
 --gradient_checkpointing --use_8bit_adam --set_grads_to_none --enable_xformers_memory_efficient_attention
 --mixed_precision="fp16" --report_to=wandb --proportion_empty_prompts 0.1 --max_train_steps=10 --seed=3
"""


def parsed(words: str) -> TrainConfig:
    taken: list[TrainConfig] = []
    command = ConfigCommand(
        "train", TrainConfig, lambda config, _: taken.append(config), text="", positional="train_data_dir", peer=PEER
    )
    click.Group("controlmill", commands=[command]).main(["train", *shlex.split(words)], standalone_mode=False)
    return taken[0]


def test_a_pasted_command_line_runs() -> None:
    config = parsed(PASTED)
    shown: dict[str, Any] = {
        "train_data_dir": "DATASET",
        "condition": ("canny",),
        "caption_column": "text",
        "learning_rate": 1e-5,
        "gradient_checkpointing": True,
        "mixed_precision": "fp16",
        "report_to": ("wandb",),
        "proportion_empty_prompts": 0.1,
        "max_train_steps": 10,
        "seed": 3,
    }
    assert config.model_dump(include=set(shown)) == shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--dataset_name fusing/fill50k", "dataset_name: make a dataset of layers first"),
        ("--push_to_hub", "push_to_hub: upload RUN/controlnet"),
        ("--validation_image a.png b.png --validation_prompt x y", "validation_image: pictures are made with"),
        ("--tokenizer_name t", "tokenizer_name: the base's own tokenizer"),
        ("--max_train_step 3", "No such option .--max-train-step."),
    ],
)
def test_what_has_no_counterpart_is_told(words: str, message: str) -> None:
    with pytest.raises((ConfigError, click.UsageError), match=message):
        parsed(f"DATASET --condition canny --pretrained_model_name_or_path BASE {words}")


@pytest.mark.parametrize("option", DEFAULTS)
def test_every_option_of_theirs_is_ours_or_is_answered(option: str) -> None:
    name = PEER.renamed.get(option, option)
    assert (name in TrainConfig.model_fields) is not (option in MISSING)
    if option in MISSING or option in NOTES or name != option:
        return
    theirs = "none" if DEFAULTS[option] is None else str(DEFAULTS[option])
    assert default_text(TrainConfig, option) == theirs


def test_the_dataset_is_the_first_word() -> None:
    assert parsed("DATA --condition canny,hed --pretrained_model_name_or_path B").train_data_dir == "DATA"
    with pytest.raises(ConfigError, match="DATASET"):
        parsed("--condition canny --pretrained_model_name_or_path B")
