"""Make one shard: pull its planned rows, prepare the images, annotate the same pixels, commit the layers, image last.

The whole shard streams: rows are pulled in parallel, taken in source order, and written a row group at a time. Nothing
of it is visible before the commit; a shard whose image record is missing is made again from the start, so the same
source and options give the same file bytes whatever was killed on the way.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

from controlmill.config import ShardOptions
from storage.dataset import Dataset
from storage.record import CommitRecord
from tasks.annotators.base import Annotator
from tasks.in_order import in_order
from tasks.line import Line
from tasks.memory import set_up_arrow
from tasks.progress import Report, ShardProgress, ignore
from tasks.pull.pull import Puller
from tasks.recipe import annotators
from tasks.rows import source_rows
from tasks.shard_files import Outcome, ShardFiles

_ROWS_PER_WRITE = 64


def pull_shard(
    dataset: Dataset, shard: int, config: ShardOptions, num_parallel: int = 1, report: Report = ignore
) -> list[CommitRecord]:
    """Make the `image` layer of a planned shard and those of `config.annotators`; returns their records, image first.

    `num_parallel` tasks like this one share the machine and the politeness limits.

    Raises:
        NetworkOutageError: this machine's network did not come back; nothing of the shard is committed.
        StorageError: the dataset cannot be read or written.
    """
    set_up_arrow()
    units = annotators(config)
    for unit in units:
        unit.setup("cpu")
    with ShardFiles(dataset, shard, config, units) as files:
        asyncio.run(_pull(files, config, units, num_parallel, report))
        return files.commit()


async def _pull(
    files: ShardFiles, config: ShardOptions, units: list[Annotator], num_parallel: int, report: Report
) -> None:
    num_threads = max(1, (os.cpu_count() or 1) // num_parallel)
    progress = ShardProgress(files.shard)
    rows = source_rows(files.dataset.layer("source"), files.shard)
    batch: list[Outcome] = []
    with ThreadPoolExecutor(num_threads, thread_name_prefix="prepare") as pool:
        async with Puller(config, num_parallel) as puller:
            line = Line(config, units, puller, pool, num_threads)
            async for outcome in in_order(rows, line.make, window=config.thread_count + 2 * _ROWS_PER_WRITE):
                batch.append(outcome)
                progress.add(outcome[1].reason if isinstance(outcome, tuple) else None)
                report(progress)
                if len(batch) == _ROWS_PER_WRITE:
                    await line.in_thread(files.write, batch)
                    batch = []
            await line.in_thread(files.write, batch)
