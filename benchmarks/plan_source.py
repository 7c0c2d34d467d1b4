"""Rows per second and memory of planning: a source of many million rows becomes source shards.

Usage: python benchmarks/plan_source.py [--rows 10000000] [--formats parquet txt] [--out benchmarks/results/NAME.md]

Peak memory is that of a process that does nothing else, so it must not grow with the rows.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from measured_run import heading

from controlmill.config import SourceOptions
from storage.dataset import Dataset
from tasks.sources.plan import plan

ROWS_PER_BATCH = 1_000_000


def write_source(path: Path, num_rows: int) -> None:
    """A list of `num_rows` URLs; Parquet has a caption column too."""
    with path.open("wb") as file:
        writer = None
        for start in range(0, num_rows, ROWS_PER_BATCH):
            numbers = range(start, min(start + ROWS_PER_BATCH, num_rows))
            urls = [f"https://images.example.org/{number:09d}.jpg" for number in numbers]
            if path.suffix == ".txt":
                file.write(("\n".join(urls) + "\n").encode())
                continue
            batch = pa.table({"url": urls, "caption": [f"picture number {number}" for number in numbers]})
            writer = writer or pq.ParquetWriter(file, batch.schema)
            writer.write_table(batch, row_group_size=100_000)
        if writer is not None:
            writer.close()


def plan_one(path: Path, dataset: Path) -> None:
    """Plan a source and print shards, seconds, CPU seconds and peak memory in MiB."""
    started_s = time.monotonic()
    caption = "caption" if path.suffix == ".parquet" else None
    num_shards = sum(1 for _ in plan(Dataset(str(dataset)), SourceOptions(url_list=str(path), caption_col=caption)))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = time.monotonic() - started_s
    print(num_shards, f"{seconds:.1f} {usage.ru_utime + usage.ru_stime:.1f} {usage.ru_maxrss / 1024:.0f}")


def main() -> None:
    """Measure each format and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--formats", nargs="+", default=["parquet", "txt"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plan", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plan:
        plan_one(*arguments.plan)
        return
    lines = [
        *heading("Planning a source"),
        "| format | rows | shards | wall s | CPU-s | rows per second | peak memory, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in arguments.formats:
        for num_rows in (arguments.rows // 10, arguments.rows):
            with tempfile.TemporaryDirectory() as folder:
                source = Path(folder) / f"urls.{kind}"
                write_source(source, num_rows)
                command = [sys.executable, __file__, "--plan", str(source), str(Path(folder) / "dataset")]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
            shards, wall, cpu, memory = done.stdout.split()
            lines.append(
                f"| {kind} | {num_rows:,} | {shards} | {wall} | {cpu} | {num_rows / float(wall):,.0f} | {memory} |"
            )
            print(lines[-1], flush=True)
    text = "\n".join([*lines, ""])
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
