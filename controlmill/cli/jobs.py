"""`controlmill jobs`: what runs on a Ray cluster."""

import sys
from datetime import datetime
from typing import TYPE_CHECKING

import click

from controlmill.cli import following
from controlmill.cli.following import ADDRESS_HELP
from controlmill.cli.options import CONTEXT_SETTINGS
from controlmill.errors import EngineError

if TYPE_CHECKING:
    from flows.cluster_jobs import Cluster, ClusterJob


@click.group(
    "jobs",
    context_settings=CONTEXT_SETTINGS,
    help="""List, follow and stop what was submitted to a Ray cluster.

    \b
    controlmill jobs list --address http://head:8265
    controlmill jobs logs --follow ID --address http://head:8265
    """,
)
def command() -> None:
    """Hold the commands."""


_WIDE = 1000
_address = click.option("--address", help=ADDRESS_HELP)


def _cluster(address: str | None) -> "Cluster":
    from flows.cluster_jobs import Cluster, address_of

    return Cluster(address_of(address))


@command.command("list")
@_address
def show(address: str | None) -> None:
    """Show every job: its id, its state, when it began, how long it took, what it runs."""
    from rich.console import Console
    from rich.table import Table

    jobs = _cluster(address).jobs()
    if not jobs:
        click.echo("no jobs")
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("id", "state", "began", "took"):
        table.add_column(heading, no_wrap=True)
    table.add_column("what", overflow="fold")
    for job in jobs:
        table.add_row(job.id, job.state, _moment(job.started), _took(job), job.what)
    # what reads a pipe wants a job in a line
    width = None if sys.stdout.isatty() else _WIDE
    Console(file=sys.stdout, width=width).print(table)


@command.command("logs")
@click.argument("job_id", metavar="ID")
@click.option("--follow", is_flag=True, help="Go on until the job ends, and leave with its exit code.")
@_address
def logs(job_id: str, address: str | None, *, follow: bool) -> None:
    """Show what the job ID has written."""
    cluster = _cluster(address)
    cluster.job(job_id)
    if follow:
        following.follow(cluster, job_id)
    else:
        click.echo(cluster.log(job_id), nl=False)


@command.command("stop")
@click.argument("job_id", metavar="ID")
@_address
def stop(job_id: str, address: str | None) -> None:
    """Stop the job ID in order, as Ctrl-C does here: what is complete stays."""
    cluster = _cluster(address)
    job = cluster.wait(job_id) if cluster.stop(job_id) else cluster.job(job_id)
    if not job.is_done:
        raise EngineError(f"job {job_id} is asked to stop, and is {job.state} all the same")
    click.echo(f"job {job_id}: {job.state}")


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _took(job: "ClusterJob") -> str:
    if job.started is None or job.ended is None:
        return ""
    return str(job.ended - job.started).partition(".")[0]
