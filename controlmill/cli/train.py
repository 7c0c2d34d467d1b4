"""`controlmill train`."""

import shlex
from typing import TYPE_CHECKING

import click

from controlmill.cli.diffusers import PEER
from controlmill.cli.running import watched
from controlmill.cli.settings import ConfigCommand
from controlmill.config import TrainConfig
from controlmill.logs import LogFormat

if TYPE_CHECKING:
    from training.outcome import Outcome


def run(config: TrainConfig, log_format: LogFormat) -> None:
    """Train."""
    with watched(log_format):
        from flows.run import run_train

        outcome = run_train(config)
    print_outcome(outcome)


def print_outcome(outcome: "Outcome") -> None:
    """Print what came of a run, and what can be done with it."""
    why = f" ({outcome.reason})" if outcome.reason else ""
    click.echo(
        f"{outcome.update:,} updates{why}, {outcome.samples_seen:,} samples seen, {outcome.epoch:,.2f} epochs: "
        f"{outcome.folder}"
    )
    click.echo(f"look at it:  controlmill sample --controlnet {shlex.quote(outcome.folder)} --hint HINT.png --prompt …")


command = ConfigCommand(
    "train",
    TrainConfig,
    run,
    positional="train_data_dir",
    peer=PEER,
    text="""Train a ControlNet on the layers of a dataset; command lines of diffusers' train_controlnet.py run too.

    \b
    controlmill train DATASET --condition canny --pretrained-model-name-or-path BASE --output-dir RUN
    controlmill train DATASET … --output-dir RUN --resume-from-checkpoint latest
    """,
)
