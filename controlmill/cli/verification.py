"""`controlmill inspect --verify`: every file is read and compared with its commit record."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from controlmill.errors import CorruptShardError

if TYPE_CHECKING:
    from storage.dataset import Dataset
    from storage.record import CommitRecord
    from storage.verify import Problem

_MAX_NAMED = 5
_AGAIN = {"image": "the same build", "caption": "the same caption command"}


def verify_all(dataset: "Dataset", num_bytes: int) -> "list[Problem]":
    """Read every committed file, `num_bytes` in all, with a bar on a terminal; what is wrong with them."""
    from storage.verify import verify

    console = Console(stderr=True)
    columns = (TextColumn("verify {task.fields[shard]}"), BarColumn(), DownloadColumn(True), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=num_bytes, shard="")

        def done(record: "CommitRecord") -> None:
            bar.update(task, advance=record.num_bytes, shard=f"{record.layer}/{record.shard:05d}")

        return list(verify(dataset, deep=True, done=done))


def refuse(dataset: "Dataset", problems: "list[Problem]") -> None:
    """Say how to mend what is wrong; nothing where nothing is.

    Raises:
        CorruptShardError: naming the damaged shards and the remedy.
    """
    from storage.filesystem import redact
    from storage.layer import FAILURES

    if not problems:
        return
    # the files of failed rows have no records of their own, those of the images cover them
    shards = dict.fromkeys(("image" if one.layer == FAILURES else one.layer, one.shard) for one in problems)
    lost = [f"{layer}/{shard:05d}.parquet" for layer, shard in shards if layer == "source"]
    records = [f"{layer}/{shard:05d}_stats.json" for layer, shard in shards if layer != "source"]
    again = dict.fromkeys(
        _AGAIN.get(layer, f"`controlmill annotate` with {layer}") for layer, _ in shards if layer != "source"
    )
    remedies = []
    if lost:
        remedies.append(f"restore {_named(lost)} from a copy, or start again in another output folder")
    if records:
        remedies.append(f"delete {_named(records)} and run {' and '.join(again)} again")
    count = "1 shard is" if len(shards) == 1 else f"{len(shards):,} shards are"
    raise CorruptShardError(f"{redact(dataset.uri)}: {count} damaged; {'; '.join(remedies)}")


def _named(paths: Iterable[str]) -> str:
    named = list(paths)
    more = f" and {len(named) - _MAX_NAMED:,} more, all named above" if len(named) > _MAX_NAMED else ""
    return ", ".join(named[:_MAX_NAMED]) + more
