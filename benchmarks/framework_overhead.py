"""What Prefect, Ray and the commit cost on top of the same work in a bare loop, at 1,000 rows a shard.

Usage: python benchmarks/framework_overhead.py [--rounds 3] [--out benchmarks/results/NAME.md]

Both pull, decode, resize, run Canny and encode with the same units, one shard at a time. The bare loop gathers a
shard's rows in memory and writes two plain Parquet files. Cost per shard is that of a long run less that of a short
one, so that start-up is not in it.
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
from measured_run import Cost, heading, run
from pull_vs_img2dataset import SCENARIOS, photographs, server

from controlmill.config import PullOptions, ShardOptions
from controlmill.reasons import RowFailure
from tasks.annotators.registry import create
from tasks.images.encode import encode_map
from tasks.images.prepare import prepare
from tasks.pull.pull import Puller

ROWS_PER_SHARD = 1000
SHORT, LONG = 1, 6
TARGET = 1.10
OPTIONS = ShardOptions(annotators=("canny",), allow_private_networks=True, thread_count=64, max_connections_per_host=64)


def bare_loop(urls: Sequence[str], folder: Path) -> None:
    """The work of a build without any of the framework."""
    canny = create("canny", {}, 0)
    canny.setup("cpu")

    def make(data: bytes, key: str) -> tuple[bytes, bytes]:
        prepared = prepare(data, OPTIONS)
        assert not isinstance(prepared, RowFailure)
        made = canny([prepared.pixels], [key])[0]
        assert not isinstance(made, RowFailure)
        return prepared.encoded, encode_map(made.map)

    async def one(puller: Puller, pool: ThreadPoolExecutor, slots: asyncio.Semaphore, url: str) -> tuple[bytes, bytes]:
        async with slots:
            pulled = await puller.pull(url)
            assert not isinstance(pulled, RowFailure)
            return await asyncio.get_running_loop().run_in_executor(pool, make, pulled.data, url)

    async def shard(part: Sequence[str]) -> list[tuple[bytes, bytes]]:
        slots = asyncio.Semaphore(OPTIONS.thread_count)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            async with Puller(
                PullOptions.model_validate(OPTIONS.model_dump(include=set(PullOptions.model_fields)))
            ) as puller:
                return await asyncio.gather(*(one(puller, pool, slots, url) for url in part))

    for number in range(0, len(urls), ROWS_PER_SHARD):
        part = urls[number : number + ROWS_PER_SHARD]
        made = asyncio.run(shard(part))
        for index, name in enumerate(("image", "canny")):
            table = pa.table({"url": part, name: [pair[index] for pair in made]})
            pq.write_table(table, folder / f"{name}-{number}.parquet", compression="none", row_group_size=64)


def costs(kind: str, urls: list[str], folder: Path) -> tuple[float, float]:
    """CPU seconds and wall seconds per shard of one kind of run."""
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
                command += ["--annotators", "canny", "--allow-private-networks", "--processes-count", "1"]
                command += ["--thread-count", "64", "--max-connections-per-host", "64"]
            measured.append(run(command, folder / "run.log"))
    short, long = measured
    return (long.cpu_s - short.cpu_s) / (LONG - SHORT), (long.wall_s - short.wall_s) / (LONG - SHORT)


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--bare", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        bare_loop(arguments.bare[0].read_text().split(), arguments.bare[1])
        return
    measured: dict[str, list[tuple[float, float]]] = {"bare loop": [], "controlmill build": []}
    with tempfile.TemporaryDirectory() as name:
        files = Path(name) / "files"
        files.mkdir()
        names = photographs(SCENARIOS[0], files)
        with server(files) as url:
            urls = [f"{url}/{names[row % len(names)]}?{row}" for row in range(LONG * ROWS_PER_SHARD)]
            for _ in range(arguments.rounds):
                for kind, results in measured.items():
                    results.append(costs(kind, urls, Path(name)))
                    print(kind, results[-1], flush=True)
    text = report(measured, arguments.rounds)
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


def report(measured: dict[str, list[tuple[float, float]]], rounds: int) -> str:
    """The result file."""
    lines = [
        *heading("What the framework costs"),
        f"{ROWS_PER_SHARD} rows a shard (640x480 JPEG to 512, Canny), one shard at a time, median of",
        f"{rounds} interleaved rounds, start-up taken off.",
        "",
        "| | CPU-s per shard | wall s per shard |",
        "|---|---|---|",
    ]
    medians = {}
    for kind, results in measured.items():
        medians[kind] = [statistics.median(values) for values in zip(*results, strict=True)]
        lines.append(f"| {kind} | {medians[kind][0]:.2f} | {medians[kind][1]:.2f} |")
    cpu, wall = (medians["controlmill build"][index] / medians["bare loop"][index] for index in (0, 1))
    verdict = "reached" if max(cpu, wall) <= TARGET else "falls short"
    lines += ["", f"Ratio: CPU {cpu:.2f}, wall {wall:.2f}; to reach: at most {TARGET:.2f} ({verdict}).", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
