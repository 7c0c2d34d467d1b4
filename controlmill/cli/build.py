"""`controlmill build`."""

import click

from controlmill.cli.running import running
from controlmill.cli.settings import ConfigCommand
from controlmill.config import BuildConfig
from controlmill.logs import LogFormat

CHANGED_DEFAULTS = {"image_size": "256", "resize_mode": "border"}
"""Defaults that differ from img2dataset's, and img2dataset's."""


def changed_defaults(config: BuildConfig) -> str | None:
    """The line that says which changed defaults this build uses without having been asked to; None where none."""
    changed = [name for name in CHANGED_DEFAULTS if name not in config.model_fields_set]
    if not changed:
        return None
    used = " and ".join(f"{name} {getattr(config, name)}" for name in changed)
    theirs = " ".join(f"--{name.replace('_', '-')} {CHANGED_DEFAULTS[name]}" for name in changed)
    return f"note: using {used}, which is not img2dataset's default; {theirs} gives img2dataset's"


def run(config: BuildConfig, log_format: LogFormat) -> None:
    """Say what differs from img2dataset, then build."""
    line = changed_defaults(config)
    if line is not None:
        click.echo(line, err=True)
    with running(config.output_folder, log_format) as finished:
        from flows.run import run_build

        finished(run_build(config))


command = ConfigCommand(
    "build",
    BuildConfig,
    run,
    text="""Pull images from a list of URLs, resize, annotate and caption them, and store them as Parquet layers.

    Run the same command again after an interruption: only what is missing is done. Options are spelled with
    hyphens or underscores; option names and values of img2dataset work here. Values of a config file are overridden by
    OPTION=VALUE, and those by options.

    \b
    controlmill build --url-list urls.parquet --output-folder DATASET --annotators canny
    controlmill build config.yaml image_size=768 annotator_options.canny.low_threshold=50
    """,
)
