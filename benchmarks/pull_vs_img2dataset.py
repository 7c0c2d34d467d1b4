"""Pull and resize beside img2dataset 1.47.0: the same URLs, server, sizes, quality and interpolation, interleaved.

Usage: python benchmarks/pull_vs_img2dataset.py [--rounds 3] [--out benchmarks/results/NAME.md]

img2dataset is installed into an environment of its own (in the cache folder of the user) when it is not there. Start-up
is measured by runs over two images and taken off. Both compute sha256, extract EXIF and write Parquet.
"""

import argparse
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
from measured_run import Cost, heading, run
from PIL import Image

PEER = "img2dataset==1.47.0"
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg")
NUM_FILES = 40
ENVIRONMENT = {"NO_ALBUMENTATIONS_UPDATE": "1"}


@dataclass(frozen=True)
class Scenario:
    """One kind of source image."""

    name: str
    width: int
    height: int
    num_rows: int
    target: float
    """At most this many times the peer's CPU time per image."""


SCENARIOS = (Scenario("640x480", 640, 480, 4000, 0.6), Scenario("12 MP", 4000, 3000, 300, 0.35))


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
    """The folder over HTTP, from a process of its own; yields the base URL."""
    command = [sys.executable, "-m", "controlmill.testing.hostile_server", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip().rstrip("/")
        finally:
            process.terminate()


def commands(urls: Path, output: Path, rows_per_shard: int) -> dict[str, list[str]]:
    """The two command lines: the same options, then what only one of them knows."""
    same = [
        *("--url_list", str(urls), "--output_folder", str(output), "--input_format", "txt"),
        *("--image_size", "512", "--resize_mode", "keep_ratio_largest", "--encode_quality", "95"),
        *("--processes_count", "2", "--thread_count", "32", "--number_sample_per_shard", str(rows_per_shard)),
    ]
    theirs = [*same, "--output_format", "parquet", "--enable_wandb", "False"]
    ours = [*same, "--allow_private_networks", "--max_connections_per_host", "64"]
    return {
        "img2dataset": [str(peer_python()), "-c", "from img2dataset.main import main; main()", *theirs],
        "controlmill": [sys.executable, "-m", "controlmill.cli.main", "build", *ours],
    }


def measure(scenario: Scenario, rounds: int, folder: Path) -> dict[str, list[tuple[Cost, Cost]]]:
    """Costs (start-up alone, full run) by tool, `rounds` of each, taken in turns."""
    files = folder / "files"
    files.mkdir()
    names = photographs(scenario, files)
    costs: dict[str, list[tuple[Cost, Cost]]] = {"img2dataset": [], "controlmill": []}
    with server(files) as url:
        lists = {}
        for kind, num_rows in (("start", 2), ("full", scenario.num_rows)):
            lists[kind] = folder / f"{kind}.txt"
            lists[kind].write_text("\n".join(f"{url}/{names[row % len(names)]}?{row}" for row in range(num_rows)))
        for number in range(rounds):
            for tool, results in costs.items():
                both = []
                for kind, urls in lists.items():
                    output = folder / f"{tool}-{kind}"
                    command = commands(urls, output, max(1, scenario.num_rows // 4))[tool]
                    both.append(run(command, folder / f"{tool}-{kind}-{number}.log", ENVIRONMENT))
                    shutil.rmtree(output)
                results.append((both[0], both[1]))
                print(scenario.name, tool, both, flush=True)
    return costs


def summary(scenario: Scenario, costs: dict[str, list[tuple[Cost, Cost]]]) -> list[str]:
    """Markdown lines: medians per tool, the ratio, and whether the target is reached."""
    lines = [
        f"## {scenario.name} JPEG, {scenario.num_rows} rows, keep_ratio_largest 512, area, quality 95",
        "",
        "| tool | start-up CPU-s | CPU-s per 1,000 images | images/s of the full run | memory, all | largest process |",
        "|---|---|---|---|---|---|",
    ]
    marginal, memory = {}, {}
    for tool, pairs in costs.items():
        per_image = [(full.cpu_s - start.cpu_s) / scenario.num_rows * 1000 for start, full in pairs]
        marginal[tool] = statistics.median(per_image)
        memory[tool] = statistics.median(full.peak_sum_bytes for _, full in pairs)
        lines.append(
            f"| {tool} | {statistics.median(start.cpu_s for start, _ in pairs):.1f} "
            f"| {marginal[tool]:.2f} ({min(per_image):.2f} to {max(per_image):.2f}) "
            f"| {statistics.median(scenario.num_rows / full.wall_s for _, full in pairs):.0f} "
            f"| {memory[tool] / 2**20:.0f} MiB "
            f"| {statistics.median(full.peak_process_bytes for _, full in pairs) / 2**20:.0f} MiB |"
        )
    ratio = marginal["controlmill"] / marginal["img2dataset"]
    verdict = "reached" if ratio <= scenario.target else f"falls short by {ratio / scenario.target - 1:.0%}"
    lines += ["", f"CPU per image: {ratio:.2f} of img2dataset's; to reach: at most {scenario.target} ({verdict})."]
    lines.append(f"Memory of all processes: {memory['controlmill'] / memory['img2dataset']:.2f} of img2dataset's.")
    return [*lines, ""]


def main() -> None:
    """Measure every scenario and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    lines = [
        *heading(f"Pulling beside {PEER}"),
        f"Median of {arguments.rounds} interleaved rounds, two processes of 32 downloads each; the loopback server",
        "has a process of its own that is not counted.",
        "",
    ]
    for scenario in SCENARIOS:
        with tempfile.TemporaryDirectory() as folder:
            lines += summary(scenario, measure(scenario, arguments.rounds, Path(folder)))
    text = "\n".join(lines)
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
