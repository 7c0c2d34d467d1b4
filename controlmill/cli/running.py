"""What every command that works on a dataset does around the work: progress, and a closing summary."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from controlmill import logs
from controlmill.cli.progress import RichObserver
from controlmill.logs import LogFormat
from controlmill.progress import LogObserver, observe
from controlmill.reasons import Reason

if TYPE_CHECKING:
    from flows.report import BuildReport

PASSING = frozenset(
    {
        Reason.DNS,
        Reason.CONNECTION,
        Reason.TLS,
        Reason.TIMEOUT,
        Reason.HOST_UNAVAILABLE,
        Reason.HTTP_429,
        Reason.HTTP_5XX,
        Reason.TRUNCATED,
    }
)
"""Reasons that may be gone at another time."""


@contextmanager
def running(dataset: str, log_format: LogFormat) -> Iterator[Callable[["BuildReport"], None]]:
    """Show progress inside of the `with` block; call what it gives with the report, which is printed at its end.

    Progress is a display on a terminal, with warnings above it, and event lines elsewhere or where they are asked for.
    """
    reports: list[BuildReport] = []
    with watched(log_format):
        yield reports.append
    for report in reports:
        print_summary(report, dataset, stdout())


def stdout() -> Console:
    """Where results go, as stdout is at that moment."""
    return Console(file=sys.stdout)


@contextmanager
def watched(log_format: LogFormat) -> Iterator[None]:
    """Show progress inside of the `with` block: a display on a terminal, event lines elsewhere."""
    console = Console(stderr=True)
    on_terminal = console.is_terminal and log_format == "text"
    logs.configure(log_format, only_warnings=on_terminal)
    if on_terminal:
        with RichObserver(console) as display, observe(display):
            yield
    else:
        with observe(LogObserver()):
            yield


def print_summary(report: "BuildReport", dataset: str, console: Console) -> None:
    """Print what a run did, what failed by reason, and what can be done next."""
    say = console.print
    if report.num_shards == 0:
        done = f"all {report.num_shards_before:,} shards were done before" if report.num_shards_before else "no rows"
        say(f"nothing to do: {done}", highlight=False)
    else:
        speed = report.num_images / report.seconds if report.seconds > 0 else 0.0
        say(
            f"{_counted(report.num_rows, 'row')} in {_counted(report.num_shards, 'shard')}, {report.seconds:,.1f} s: "
            f"{_counted(report.num_images, 'image')} ({speed:,.1f} per second), {report.failed.total():,} failed",
            highlight=False,
        )
    if report.failed:
        table = Table(box=None, padding=(0, 2), show_header=False)
        table.add_column(justify="right")
        table.add_column()
        for reason, num in report.failed.most_common():
            table.add_row(f"{num:,}", reason.value)
        say(table)
    for line in report.lines():
        say(line, highlight=False, markup=False, soft_wrap=True)
    again = ",".join(reason.value for reason, _ in report.failed.most_common() if reason in PASSING)
    if again:
        say(f"pull again:  controlmill retry {shlex.quote(dataset)} --reason {again}", highlight=False, soft_wrap=True)
    say(f"look at it:  controlmill inspect {shlex.quote(dataset)}", highlight=False, soft_wrap=True)


def _counted(num: int, what: str) -> str:
    return f"{num:,} {what}" if num == 1 else f"{num:,} {what}s"
