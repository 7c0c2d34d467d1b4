"""Seconds from `controlmill build` to the first committed row, with nothing running before.

Usage: python benchmarks/first_row.py [--rounds 5] [--out benchmarks/results/NAME.md]
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import cv2
from measured_run import heading

from controlmill.testing.command import Command
from controlmill.testing.discs import disc
from controlmill.testing.http_server import HttpServer, answer

NUM_ROWS = 2000
ROWS_PER_SHARD = 100
TARGET_S = 20.0


def first_row_s(url_list: Path, folder: Path) -> tuple[float, float]:
    """Seconds to the first commit record of the image layer, and to the end of the run."""
    dataset = folder / "dataset"
    shutil.rmtree(dataset, ignore_errors=True)
    started_s = time.monotonic()
    command = Command(
        [
            *("build", "--url-list", str(url_list), "--output-folder", str(dataset), "--allow-private-networks"),
            *("--annotators", "canny", "--number-sample-per-shard", str(ROWS_PER_SHARD)),
        ],
        folder / "run.log",
    )
    assert command.wait_for(lambda: any((dataset / "image").glob("*_stats.json"))), command.output
    first_s = time.monotonic() - started_s
    assert command.process.wait() == 0, command.output
    return first_s, time.monotonic() - started_s


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    body = cv2.imencode(".jpg", disc(0, 0)[0])[1].tobytes()
    routes = {f"/{number}.jpg": answer(body) for number in range(NUM_ROWS)}
    with HttpServer(routes) as server, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url_list = folder / "urls.txt"
        url_list.write_text("\n".join(server.url(path) for path in routes))
        times = [first_row_s(url_list, folder) for _ in range(arguments.rounds)]
    firsts = [first for first, _ in times]
    verdict = "reached" if max(firsts) <= TARGET_S else "falls short"
    lines = [
        *heading("From the command to the first committed row"),
        f"{NUM_ROWS} rows in shards of {ROWS_PER_SHARD}, Canny; the command starts its own Ray and Prefect server.",
        "",
        "| round | first committed row, s | whole run, s |",
        "|---|---|---|",
        *(f"| {number} | {first:.1f} | {whole:.1f} |" for number, (first, whole) in enumerate(times, 1)),
        "",
        f"Median {statistics.median(firsts):.1f} s, largest {max(firsts):.1f} s.",
        f"To reach: at most {TARGET_S:.0f} s ({verdict}).",
        "",
    ]
    text = "\n".join(lines)
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
