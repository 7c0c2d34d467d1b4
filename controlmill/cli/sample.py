"""`controlmill sample`."""

import click

from controlmill import logs
from controlmill.cli.settings import ConfigCommand
from controlmill.config.sample import SampleConfig
from controlmill.logs import LogFormat


def run(config: SampleConfig, log_format: LogFormat) -> None:
    """Generate images and print where they are."""
    logs.configure(log_format)
    from training.sample_run import run_sample

    for path in run_sample(config):
        click.echo(str(path))


command = ConfigCommand(
    "sample",
    SampleConfig,
    run,
    text="""Generate images with a ControlNet: from hints in files, or from held-out rows of a dataset.

    \b
    controlmill sample --controlnet RUN/controlnet --hint canny.png --prompt "a red disc" --output OUT
    controlmill sample --controlnet RUN/controlnet --dataset DATASET --condition canny \\
        --prompt-kinds none,default,automatic --output OUT
    """,
)
