"""What Prefect, Ray and the commit cost on top of the same work in a bare loop, at 1,000 rows a shard.

Usage: python benchmarks/framework_overhead.py [--rounds 3] [--processes-count N] [--out benchmarks/results/NAME.md]
                                               [--note NOTE.md]

Both send their rows through the same line (pull, decode, resize, Canny, encode). The bare loop makes a shard at a time
with a thread per CPU; the build makes `--processes-count` at a time, by default its own default, one per CPU with one
thread each. The bare loop has no engine, no plan, no commit, no hash of what it writes and no progress: it gathers a
shard's rows in memory and writes two plain Parquet files. Cost per shard is that of a long run less that of a short
one, so start-up is not in it.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from measured_run import Cost, Part, heading, run
from pull_vs_img2dataset import ENVIRONMENT, SCENARIOS, check_complete, photographs, server

from controlmill.config import ShardOptions
from tasks.annotators.registry import create
from tasks.line import Line
from tasks.pull.pull import Puller
from tasks.rows import FinishedRow, SourceRow

ROWS_PER_SHARD = 1000
SHORT, LONG = 2, 8
TARGET = 1.10
OPTIONS = ShardOptions(
    annotators=("canny",),
    resize_mode="keep_ratio_largest",
    allow_private_networks=True,
    thread_count=64,
    max_connections_per_host=64,
)


def bare_loop(urls: Sequence[str], folder: Path) -> None:
    """The work of a build without any of the framework."""
    canny = create("canny", {}, 0)
    canny.setup("cpu")

    async def shard(part: Sequence[str]) -> list[FinishedRow]:
        num_threads = os.cpu_count() or 1
        with ThreadPoolExecutor(num_threads) as pool:
            async with Puller(OPTIONS) as puller:
                line = Line(OPTIONS, [canny], puller, pool, num_threads)
                rows = [SourceRow(url, url, None, None, None, {}) for url in part]
                made = await asyncio.gather(*map(line.make, rows))
        return [row for row in made if isinstance(row, FinishedRow)]

    for number in range(0, len(urls), ROWS_PER_SHARD):
        made = asyncio.run(shard(urls[number : number + ROWS_PER_SHARD]))
        assert len(made) == ROWS_PER_SHARD
        columns = {"image": [row.encoded for row in made], "canny": [row.maps["canny"].encoded for row in made]}
        for name, blobs in columns.items():
            table = pa.table({"url": [row.row.url for row in made], name: blobs})
            pq.write_table(table, folder / f"{name}-{number}.parquet", compression="none", row_group_size=64)


def costs(kind: str, urls: list[str], folder: Path, num_processes: int) -> tuple[Cost, Cost]:
    """A short and a long run of one kind."""
    measured: list[Cost] = []
    for num_shards in (SHORT, LONG):
        with tempfile.TemporaryDirectory(dir=folder) as output:
            url_list = folder / f"{num_shards}.txt"
            url_list.write_text("\n".join(urls[: num_shards * ROWS_PER_SHARD]))
            if kind == "bare loop":
                command = [sys.executable, __file__, "--bare", str(url_list), output]
            else:
                command = [sys.executable, "-m", "controlmill.cli.main", "build", "--url-list", str(url_list)]
                command += ["--output-folder", output, "--number-sample-per-shard", str(ROWS_PER_SHARD)]
                command += ["--annotators", "canny", "--resize-mode", "keep_ratio_largest"]
                command += ["--allow-private-networks", "--processes-count", str(num_processes)]
                command += ["--thread-count", "64", "--max-connections-per-host", "64"]
            measured.append(run(command, folder / "run.log", ENVIRONMENT))
            if kind != "bare loop":
                check_complete(Path(output), num_shards * ROWS_PER_SHARD)
    return measured[0], measured[1]


def per_shard(pair: tuple[Cost, Cost]) -> tuple[float, float]:
    """CPU seconds and wall seconds per shard, from a short and a long run."""
    short, long = pair
    return (long.cpu_s - short.cpu_s) / (LONG - SHORT), (long.wall_s - short.wall_s) / (LONG - SHORT)


def by_kind(pair: tuple[Cost, Cost]) -> str:
    """Where the CPU seconds per shard went, by kind of process."""
    short, long = pair
    taken = {
        kind: (part.cpu_s - short.parts.get(kind, Part()).cpu_s) / (LONG - SHORT) for kind, part in long.parts.items()
    }
    return ", ".join(f"{kind} {cpu_s:.2f}" for kind, cpu_s in sorted(taken.items(), key=lambda item: -item[1]))


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes-count", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path)
    parser.add_argument("--note", type=Path, help="Markdown to put at the end of the result file")
    parser.add_argument("--bare", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        bare_loop(arguments.bare[0].read_text().split(), arguments.bare[1])
        return
    measured: dict[str, list[tuple[Cost, Cost]]] = {"bare loop": [], "controlmill build": []}
    with tempfile.TemporaryDirectory() as name:
        files = Path(name) / "files"
        files.mkdir()
        names = photographs(SCENARIOS[0], files)
        with server(files) as url:
            urls = [f"{url}/{names[row % len(names)]}?{row}" for row in range(LONG * ROWS_PER_SHARD)]
            for _ in range(arguments.rounds):
                for kind, results in measured.items():
                    results.append(costs(kind, urls, Path(name), arguments.processes_count))
                    print(kind, per_shard(results[-1]), by_kind(results[-1]), flush=True)
    text = report(measured, arguments.rounds, arguments.processes_count) + (
        arguments.note.read_text() if arguments.note else ""
    )
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


def report(measured: dict[str, list[tuple[Cost, Cost]]], rounds: int, num_processes: int) -> str:
    """The result file."""
    lines = [
        *heading("What the framework costs"),
        f"{ROWS_PER_SHARD} rows a shard (640x480 JPEG to 512x384, Canny), the build with {num_processes} at a time: a",
        f"run of {LONG} shards less one of {SHORT}, so start-up is not in it. Median of {rounds} interleaved rounds",
        "(lowest in brackets). Other work ran on the machine: wall time is an indication only.",
        "",
        "| | CPU-s per shard | wall s per shard |",
        "|---|---|---|",
    ]
    medians, lowest = {}, {}
    for kind, pairs in measured.items():
        results = [per_shard(pair) for pair in pairs]
        medians[kind] = [statistics.median(values) for values in zip(*results, strict=True)]
        lowest[kind] = [min(values) for values in zip(*results, strict=True)]
        cells = [f"{middle:.2f} ({low:.2f})" for middle, low in zip(medians[kind], lowest[kind], strict=True)]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    lines.append("")
    for what, values in (("medians", medians), ("the lowest of each", lowest)):
        cpu, wall = (values["controlmill build"][index] / values["bare loop"][index] for index in (0, 1))
        lines.append(f"- Ratio of {what}: CPU {cpu:.2f}, wall {wall:.2f}; to reach: at most {TARGET:.2f}.")
    pairs_of_rounds = zip(measured["controlmill build"], measured["bare loop"], strict=True)
    ratios = [[ours / bare for ours, bare in zip(*map(per_shard, pair), strict=True)] for pair in pairs_of_rounds]
    for index, what in enumerate(("CPU", "wall")):
        found = sorted(ratio[index] for ratio in ratios)
        shown = ", ".join(f"{ratio:.2f}" for ratio in found)
        middle = statistics.median(found)
        lines.append(f"- {what}, each round against the bare loop right before it: median {middle:.2f} ({shown}).")
    lines.append(f"- CPU-s per shard by kind of process, last round: {by_kind(measured['controlmill build'][-1])}.")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
