"""A job on a cluster, followed from here: its words, Ctrl-C, its exit code."""

import shlex
import sys
from typing import TYPE_CHECKING

import click

from controlmill.errors import EngineError, InterruptedRunError

if TYPE_CHECKING:
    from flows.cluster_jobs import Cluster, ClusterJob

ADDRESS_HELP = "The cluster's dashboard, as in http://head:8265.  [default: RAY_API_SERVER_ADDRESS, else RAY_ADDRESS]"


def follow(cluster: "Cluster", job_id: str) -> None:
    """Show what a job writes until it ends, and leave this program with its exit code.

    Ctrl-C on a terminal asks whether to stop the job; elsewhere, and at the question, it leaves the job alone.

    Raises:
        EngineError: the job failed without an exit code, or its cluster is not to be reached any more.
        InterruptedRunError: the job was stopped, or is not followed any more.
    """
    from flows.cluster_jobs import Follower

    follower = Follower(cluster, job_id, lambda text: click.echo(text, nl=False))
    while True:
        try:
            job = follower.follow()
            break
        except KeyboardInterrupt:
            if _wants_to_stop(cluster, job_id):
                cluster.stop(job_id)
            else:
                click.echo(f"job {job_id} goes on", err=True)
    end(job)


def end(job: "ClusterJob") -> None:
    """Leave this program as the job ended: with its exit code, or the error that it has none for."""
    if job.state == "STOPPED":
        raise InterruptedRunError(f"job {job.id} was stopped; submit it again to go on")
    if job.state == "FAILED" and job.exit_code is None:
        raise EngineError(f"job {job.id} failed: {' '.join(job.message.split())[:600] or 'Ray does not say why'}")
    if job.exit_code:
        click.echo(f"job {job.id} failed with exit code {job.exit_code}", err=True)
        click.get_current_context().exit(job.exit_code)


def _wants_to_stop(cluster: "Cluster", job_id: str) -> bool:
    where = f"{job_id} --address {shlex.quote(cluster.address)}"
    left = InterruptedRunError(
        f"job {job_id} goes on; follow it with `controlmill jobs logs --follow {where}`, "
        f"stop it with `controlmill jobs stop {where}`"
    )
    if not sys.stdin.isatty():
        raise left
    try:
        return click.confirm("\nstop the job? (Ctrl-C: leave it running)", default=False, err=True)
    except (click.Abort, KeyboardInterrupt):
        raise left from None
