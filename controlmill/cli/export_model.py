"""`controlmill export-model`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from controlmill.cli.options import CONTEXT_SETTINGS
from controlmill.cli.settings import general_options

if TYPE_CHECKING:
    from training.export import Layout


def run(run_folder: str, layout: "Layout", output: str) -> None:
    """Export and print what was written."""
    from training.export import export_model

    for path in export_model(Path(run_folder).expanduser(), layout, Path(output).expanduser()):
        click.echo(str(path))


command = click.Command(
    "export-model",
    params=[
        click.Argument(["run_folder"], metavar="RUN"),
        click.Option(
            ["--layout"],
            type=click.Choice(["cldm", "diffusers"]),
            required=True,
            help="Names as in the official code (one file), or as in diffusers (a folder).",
        ),
        click.Option(["--output"], required=True, metavar="FILE", help="File ending in .safetensors, or folder."),
        *(option for option in general_options() if option.name != "log_format"),
    ],
    callback=run,
    context_settings=CONTEXT_SETTINGS,
    no_args_is_help=True,
    help="""Write the ControlNet of a run for other programs, bit for bit.

    \b
    controlmill export-model RUN --layout cldm --output control_canny.safetensors
    controlmill export-model RUN --layout diffusers --output FOLDER
    """,
)
