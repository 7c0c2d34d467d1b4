"""`controlmill doctor`."""

import json
import sys

import click
from rich.console import Console
from rich.table import Table

from controlmill.cli.options import CONTEXT_SETTINGS

_MARKS = {"good": "[green]ok[/]", "note": "[yellow]note[/]", "problem": "[red]problem[/]"}


@click.command(
    "doctor",
    context_settings=CONTEXT_SETTINGS,
    help="""Check this machine: versions, GPU, Ray, Prefect, storage, weights, environments; says what to do for each.

    \b
    controlmill doctor
    controlmill doctor --output-folder s3://bucket/datasets --ray-address auto
    """,
)
@click.option("--output-folder", default=".", metavar="TEXT", help="Where datasets or runs are to be written.")
@click.option("--ray-address", metavar="TEXT", help="The Ray cluster to ask; by default one is started and ended.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=2),
    metavar="SECONDS",
    help="What has not answered by then is a problem; by default 16 s.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array and nothing else.")
def command(output_folder: str, ray_address: str | None, timeout: float | None, *, as_json: bool) -> None:
    """Examine, print, and exit with 1 where there is a problem."""
    from controlmill import logs
    from controlmill.config import EngineOptions
    from controlmill.config.base import validate
    from flows.doctor.examine import LIMIT_S, end, examine

    options = validate(EngineOptions, {} if ray_address is None else {"ray_address": ray_address})
    logs.configure("text", only_warnings=True)
    console = Console(stderr=True)
    with console.status("looking: Ray and a Prefect server take about ten seconds"):
        findings = list(examine(options, output_folder, timeout or LIMIT_S))
    if as_json:
        click.echo(json.dumps([finding.to_json() for finding in findings], indent=2))
    else:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for finding in findings:
            remedy = f"\n[dim]→[/] {finding.remedy}" if finding.remedy else ""
            table.add_row(_MARKS[finding.verdict], finding.what, finding.found + remedy)
        Console(file=sys.stdout).print(table)
    num_problems = sum(finding.verdict == "problem" for finding in findings)
    if num_problems:
        click.echo(f"{num_problems} problem{'s' if num_problems > 1 else ''}", err=True)
    end(1 if num_problems else 0)
