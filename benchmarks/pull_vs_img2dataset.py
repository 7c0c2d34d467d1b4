"""Pull and resize beside img2dataset 1.47.0: the same URLs, server, sizes, quality and interpolation, interleaved.

Usage: python benchmarks/pull_vs_img2dataset.py [--rounds 3] [--out benchmarks/results/NAME.md] [--note NOTE.md]

img2dataset is installed into an environment of its own (in the cache folder of the user) when it is not there. Start-up
is measured by runs over two images in two shards, so that every working process has started, and taken off. Both
compute sha256, extract EXIF, obey X-Robots-Tag and write Parquet; a run in which a row fails stops the benchmark.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import skimage.data
from measured_run import Cost, heading, run
from numpy.typing import NDArray
from PIL import Image

PEER = "img2dataset==1.47.0"
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg")
NUM_FILES = 40
# the same priority for all: Ray would give its workers less of a machine that others use too
ENVIRONMENT = {"NO_ALBUMENTATIONS_UPDATE": "1", "RAY_worker_niceness": "0"}
NUM_PROCESSES = 2
NUM_COMPARED = 20
NUM_KINDS = 6
# the processes that pull and make images; the peer's third one of this kind counts for its logger
WORKING = {"img2dataset": "multiprocessing.spawn", "controlmill": "ray::pull-shard"}


@dataclass(frozen=True)
class Scenario:
    """One kind of source image."""

    name: str
    width: int
    height: int
    num_rows: int
    target: float
    """At most this many times the peer's CPU time per image."""


SCENARIOS = (Scenario("640x480", 640, 480, 8000, 0.6), Scenario("12 MP", 4000, 3000, 1000, 0.35))


@dataclass
class Measured:
    """What was measured of one scenario."""

    costs: dict[str, list[tuple[Cost, Cost]]] = field(default_factory=lambda: {"img2dataset": [], "controlmill": []})
    """Costs (start-up alone, full run) by tool, one pair per round."""
    likeness: str = ""
    """What the images of both tools have in common."""


def peer_python() -> Path:
    """The interpreter of the peer's environment, made when it is missing."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "controlmill" / PEER.replace("==", "-")
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", PEER], check=True)
        (folder / "complete").touch()
    return python


def photographs(scenario: Scenario, folder: Path) -> list[str]:
    """Write NUM_FILES JPEG photographs of the scenario's size: crops of scikit-image's, enlarged, with noise."""
    rng = np.random.default_rng(0)
    data = Path(skimage.data.__file__).parent
    sources = [Image.open(data / name).convert("RGB") for name in PHOTOS]
    names = []
    for index in range(NUM_FILES):
        source = sources[index % len(sources)]
        scale = rng.uniform(0.6, 1.0) * min(source.width / scenario.width, source.height / scenario.height)
        width, height = scenario.width * scale, scenario.height * scale
        left, top = rng.uniform(0, source.width - width), rng.uniform(0, source.height - height)
        box = (left, top, left + width, top + height)
        image = source.resize((scenario.width, scenario.height), Image.Resampling.BICUBIC, box)
        noisy = np.clip(np.asarray(image, np.float32) + rng.normal(0, 3, (scenario.height, scenario.width, 1)), 0, 255)
        file = io.BytesIO()
        Image.fromarray(noisy.astype(np.uint8)).save(file, "JPEG", quality=85)
        names.append(f"{index:03d}.jpg")
        (folder / names[-1]).write_bytes(file.getvalue())
    return names


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The folder over HTTP, from a process of its own, which ends with its standard input; yields the base URL."""
    command = [sys.executable, "-m", "controlmill.testing.hostile_server", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip().rstrip("/")


def commands(urls: Path, output: Path, rows_per_shard: int) -> dict[str, list[str]]:
    """The two command lines: the same options, then what only one of them knows."""
    same = [
        *("--url_list", str(urls), "--output_folder", str(output), "--input_format", "txt"),
        *("--image_size", "512", "--resize_mode", "keep_ratio_largest", "--encode_quality", "95"),
        *("--downscale_interpolation", "area", "--compute_hash", "sha256", "--extract_exif", "True"),
        *("--processes_count", str(NUM_PROCESSES), "--thread_count", "32"),
        *("--number_sample_per_shard", str(rows_per_shard)),
    ]
    theirs = [*same, "--output_format", "parquet", "--enable_wandb", "False"]
    ours = [*same, "--allow_private_networks", "--max_connections_per_host", "64"]
    return {
        "img2dataset": [str(peer_python()), "-c", "from img2dataset.main import main; main()", *theirs],
        "controlmill": [sys.executable, "-m", "controlmill.cli.main", "build", *ours],
    }


def measure(scenario: Scenario, rounds: int, folder: Path) -> Measured:
    """Run both tools in turns, `rounds` times each."""
    files = folder / "files"
    files.mkdir()
    names = photographs(scenario, files)
    measured = Measured()
    sizes = {"start": (NUM_PROCESSES, 1), "full": (scenario.num_rows, scenario.num_rows // 4)}
    with server(files) as url:
        for number in range(rounds):
            for tool, results in measured.costs.items():
                both = []
                for kind, (num_rows, rows_per_shard) in sizes.items():
                    output, urls = folder / f"{tool}-{kind}", folder / f"{kind}.txt"
                    shutil.rmtree(output, ignore_errors=True)
                    urls.write_text("\n".join(f"{url}/{names[row % len(names)]}?{row}" for row in range(num_rows)))
                    command = commands(urls, output, rows_per_shard)[tool]
                    both.append(run(command, folder / f"{tool}-{kind}-{number}.log", ENVIRONMENT))
                    check_complete(output, num_rows)
                results.append((both[0], both[1]))
                print(scenario.name, tool, *both, sep="\n  ", flush=True)
    measured.likeness = likeness(folder / "img2dataset-full", folder / "controlmill-full")
    return measured


def check_complete(output: Path, num_rows: int) -> None:
    """Raise when a row failed; both tools count in files of the same name and keys."""
    folder = output / "image" if (output / "image").is_dir() else output
    records = [json.loads(path.read_text()) for path in folder.glob("*_stats.json")]
    num_images = sum(record["successes"] for record in records)
    if num_images != num_rows:
        raise RuntimeError(
            f"{num_rows - num_images} of {num_rows} rows failed in {output}: {records[0]['status_dict']}"
        )


def likeness(theirs: Path, ours: Path) -> str:
    """Compare the images of the first shard: shape, bytes, and PSNR of the decoded pixels."""
    their_rows = pq.read_table(theirs / "00000.parquet", columns=["url", "jpg", "sha256"]).to_pylist()
    their_rows.sort(key=lambda row: int(row["url"].rpartition("?")[2]))
    our_rows = pq.read_table(ours / "image" / "00000.parquet", columns=["url", "image", "sha256"]).to_pylist()
    decibels = []
    for their, our in zip(their_rows[:NUM_COMPARED], our_rows[:NUM_COMPARED], strict=True):
        if (their["url"], their["sha256"]) != (our["url"], our["sha256"]):
            raise RuntimeError(f"the tools made different rows: {their['url']} and {our['url']}")
        their_pixels, our_pixels = pixels(their["jpg"]), pixels(our["image"]["bytes"])
        if their_pixels.shape != our_pixels.shape:
            raise RuntimeError(f"{their['url']}: {their_pixels.shape} there, {our_pixels.shape} here")
        decibels.append(cv2.PSNR(their_pixels, our_pixels))
    their_bytes = statistics.mean(len(row["jpg"]) for row in their_rows)
    our_bytes = statistics.mean(len(row["image"]["bytes"]) for row in our_rows)
    return (
        f"Images of both: {our_pixels.shape[1]}x{our_pixels.shape[0]}, the same URLs and sha256 in the same rows; "
        f"{their_bytes / 1000:.1f} kB each there, {our_bytes / 1000:.1f} kB here; PSNR between them "
        f"{min(decibels):.1f} to {max(decibels):.1f} dB."
    )


def pixels(encoded: bytes) -> NDArray[np.uint8]:
    """Decode an image, in whichever order of channels."""
    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    return decoded.astype(np.uint8)


def summary(scenario: Scenario, measured: Measured) -> list[str]:
    """Markdown lines: medians per tool, the ratios, and whether the targets are reached."""
    lines = [
        f"## {scenario.name} JPEG, {scenario.num_rows} rows in 4 shards, keep_ratio_largest 512, area, quality 95",
        "",
        "| tool | start-up CPU-s | CPU-s per 1,000 images | images/s after it | images/s | memory | two workers' |",
        "|---|---|---|---|---|---|---|",
    ]
    marginal, lowest, total, working = {}, {}, {}, {}
    for tool, pairs in measured.costs.items():
        per_image = [(full.cpu_s - start.cpu_s) / scenario.num_rows * 1000 for start, full in pairs]
        marginal[tool], lowest[tool] = statistics.median(per_image), min(per_image)
        total[tool] = statistics.median(full.peak_sum_bytes for _, full in pairs)
        working[tool] = statistics.median(working_bytes(full, tool) for _, full in pairs)
        lines.append(
            f"| {tool} | {statistics.median(start.cpu_s for start, _ in pairs):.1f} "
            f"| {marginal[tool]:.2f} ({min(per_image):.2f} to {max(per_image):.2f}) "
            f"| {statistics.median(scenario.num_rows / (full.wall_s - start.wall_s) for start, full in pairs):.0f} "
            f"| {statistics.median(scenario.num_rows / full.wall_s for _, full in pairs):.0f} "
            f"| {total[tool] / 2**20:.0f} MiB | {working[tool] / 2**20:.0f} MiB |"
        )
    cpu = marginal["controlmill"] / marginal["img2dataset"]
    least = lowest["controlmill"] / lowest["img2dataset"]
    lines.append("")
    lines.append(f"- CPU per image: {cpu:.2f} of img2dataset's (lowest against lowest: {least:.2f});")
    lines.append(f"  to reach: at most {scenario.target} ({verdict(cpu, scenario.target)}).")
    for what, peaks in (("all processes", total), ("the working processes", working)):
        ratio = peaks["controlmill"] / peaks["img2dataset"]
        lines.append(
            f"- Peak memory of {what}: {ratio:.2f} of img2dataset's; to reach: at most 1 ({verdict(ratio, 1)})."
        )
    return [*lines, f"- {measured.likeness}", "", *by_kind(measured), ""]


def working_bytes(cost: Cost, tool: str) -> int:
    """Peaks of the processes that pull and make images, added up."""
    return sum(sorted(cost.parts[WORKING[tool]].peaks_bytes)[-NUM_PROCESSES:])


def by_kind(measured: Measured) -> list[str]:
    """Where CPU and memory went in the last round, start-up included."""
    lines = ["Last round, start-up included, by kind of process (CPU-s; sum of the peaks):", ""]
    for tool, pairs in measured.costs.items():
        parts = sorted(pairs[-1][1].parts.items(), key=lambda item: -sum(item[1].peaks_bytes))
        shown = [
            f"{len(part.peaks_bytes)} {kind} ({part.cpu_s:.1f} s; {sum(part.peaks_bytes) / 2**20:.0f} MiB)"
            for kind, part in parts
            if part.cpu_s >= 0.1
        ]
        lines.append(f"- {tool}: {', '.join(shown)}")
    return lines


def verdict(ratio: float, target: float) -> str:
    """Whether a target is reached, or by how much it is missed."""
    return "reached" if ratio <= target else f"falls short by {ratio / target - 1:.0%}"


def main() -> None:
    """Measure every scenario and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scenario", type=int, choices=range(len(SCENARIOS)), help="only this one")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--note", type=Path, help="Markdown to put at the end of the result file")
    arguments = parser.parse_args()
    lines = [
        *heading(f"Pulling beside {PEER}"),
        f"Median of {arguments.rounds} interleaved rounds (in brackets: lowest and highest), {NUM_PROCESSES} working",
        "processes of 32 downloads each. The loopback server has a process of its own that is not counted. CPU time is",
        "that of all processes of a tool, its engines' among them; start-up (two images in two shards) is taken off.",
        "Memory is the peak of the summed proportional set sizes. Other work ran on the machine: wall time is an",
        "indication only.",
        "",
    ]
    for scenario in SCENARIOS if arguments.scenario is None else SCENARIOS[arguments.scenario :][:1]:
        with tempfile.TemporaryDirectory() as folder:
            lines += summary(scenario, measure(scenario, arguments.rounds, Path(folder)))
    text = "\n".join(lines) + (arguments.note.read_text() if arguments.note else "")
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
