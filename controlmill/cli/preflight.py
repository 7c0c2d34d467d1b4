"""`controlmill preflight`."""

import sys

from rich.console import Console
from rich.table import Table

from controlmill import logs
from controlmill.cli.diffusers import PEER
from controlmill.cli.settings import ConfigCommand
from controlmill.config import TrainConfig
from controlmill.logs import LogFormat


def run(config: TrainConfig, log_format: LogFormat) -> None:
    """Check, print what was found, and fail where training would be in vain."""
    logs.configure(log_format)
    from training.preflight import refuse_if_wrong
    from training.setup import findings_here

    findings = findings_here(config)
    table = Table(box=None, padding=(0, 2), show_header=False)
    for finding in findings:
        table.add_row("[red]wrong[/]" if finding.is_wrong else "[green]ok[/]", finding.name, finding.said)
    Console(file=sys.stdout).print(table)
    refuse_if_wrong(findings)


command = ConfigCommand(
    "preflight",
    TrainConfig,
    run,
    positional="train_data_dir",
    peer=PEER,
    text="""Check data, hints, prompts, gradients and memory before training; takes what `controlmill train` takes.

    \b
    controlmill preflight DATASET --condition canny --pretrained-model-name-or-path BASE
    """,
)
