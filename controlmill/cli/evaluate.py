"""`controlmill evaluate`."""

from typing import TYPE_CHECKING

import click
from rich.table import Table

from controlmill.cli.running import stdout, watched
from controlmill.cli.settings import ConfigCommand
from controlmill.config.evaluate import EvaluateConfig
from controlmill.logs import LogFormat
from controlmill.progress import observer

if TYPE_CHECKING:
    from training.evaluate import Evaluation


def run(config: EvaluateConfig, log_format: LogFormat) -> None:
    """Measure."""
    with watched(log_format):
        from tasks.read_back import read_backs_of
        from training.evaluate import evaluate

        done = evaluate(config, read_backs_of, observer().message)
    print_evaluation(done)


def print_evaluation(done: "Evaluation") -> None:
    """Print a line for each condition, and where the pictures are."""
    table = Table(box=None, padding=(0, 2), title=f"mean over {done.num_rows} held-out rows", title_justify="left")
    for name in ("", "own hint", "another hint", "control off", "real image", "lift", "follows"):
        table.add_column(name, justify="left" if not name else "right")
    for one in done.found:
        line = one.to_json()
        numbers = [f"{line[name]:.3f}" for name in ("mean_own", "mean_other", "off", "real", "lift")]
        better = "" if line["higher_is_better"] else " (less is better)"
        table.add_row(one.measure + better, *numbers, "yes" if one.confirmed else "no")
    stdout().print(table)
    click.echo(f"written: {done.report}, {done.grid}")


command = ConfigCommand(
    "evaluate",
    EvaluateConfig,
    run,
    positional="controlnet",
    text="""Measure how well a ControlNet is obeyed: images are generated from held-out rows and read back by the
    annotator that made their hints.

    \b
    controlmill evaluate RUN
    controlmill evaluate CONTROLNET --train-data-dir DATASET --condition canny \\
        --pretrained-model-name-or-path BASE --out evaluation.json
    """,
)
