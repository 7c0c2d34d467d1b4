"""`controlmill convergence`."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controlmill.cli.options import CONTEXT_SETTINGS
from controlmill.cli.settings import general_options
from controlmill.config import parse_overrides, validate
from controlmill.config.convergence import ConvergenceOptions
from controlmill.errors import ConfigError

if TYPE_CHECKING:
    from training.report import Report


def run(addresses: list[str], overrides: dict[str, Any], plot: Path | None, *, as_json: bool) -> None:
    """Say for every log what happened in it, and draw it where that is asked for."""
    with ExitStack() as stack:
        reports = [_analysed(address, overrides, stack) for address in addresses]
        for number, report in enumerate(reports):
            if as_json:
                click.echo(json.dumps(report.to_json(), allow_nan=False))
            else:
                click.echo("\n".join(([""] if number else []) + report.lines()))
        if plot is not None:
            from training.plot import write_plot

            write_plot(reports[0], plot)
            click.echo(f"plot: {plot}", err=True)


def _analysed(address: str, overrides: dict[str, Any], stack: ExitStack) -> "Report":
    """Of a path, or of an URI whose files are here until the stack is closed."""
    from storage.filesystem import redact
    from training.local_run import local_log
    from training.report import analyse

    if "://" not in address:
        return analyse(Path(address), overrides)
    return analyse(stack.enter_context(local_log(address)), overrides, redact(address))


def _start(words: tuple[str, ...], plot: str | None, *, as_json: bool) -> None:
    pairs = [word for word in words if "=" in word and "://" not in word.partition("=")[0] and not Path(word).exists()]
    addresses = [word for word in words if word not in pairs]
    if not addresses:
        raise ConfigError("RUN: give the folder of a run, or a probe.jsonl")
    if plot and len(addresses) > 1:
        raise ConfigError(f"--plot: draws one run, not {len(addresses)}")
    if plot and Path(plot).suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"--plot: give a file that ends in .png, .svg or .pdf, not {plot!r}")
    overrides = parse_overrides(pairs)
    validate(ConvergenceOptions, overrides)
    run(addresses, overrides, Path(plot) if plot else None, as_json=as_json)


command = click.Command(
    "convergence",
    params=[
        click.Argument(["words"], nargs=-1, metavar="RUN|PROBE.jsonl... [OPTION=VALUE]..."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object per file, each on one line."),
        click.Option(
            ["--plot"], metavar="FILE.png", help="Draw training loss, control gain and sensitivity into this file."
        ),
        *(option for option in general_options() if option.name != "log_format"),
    ],
    callback=_start,
    context_settings=CONTEXT_SETTINGS,
    no_args_is_help=True,
    help="""Say when a ControlNet began to follow its condition, from the probe log of its run.

    \b
    controlmill convergence RUN --plot convergence.png
    controlmill convergence a/probe.jsonl s3://bucket/run --json

    Thresholds may be set as in training: following_gain=0.02.
    """,
)
