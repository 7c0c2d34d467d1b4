"""Build, annotate and train in a loop against a faulty server, with workers, actors and drivers killed at random.

Usage: python benchmarks/soak.py [--minutes 120] [--seed 20] [--out benchmarks/results/NAME.md]

Ray and the Prefect server are started once and live as long as the soak, as those of a cluster do; every round makes a
dataset, adds a layer with a network and trains on it, and each command is killed, or something that it works with, and
run again until it ends by itself. Exits with 1 where a row is lost, memory grows, or something is left over.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow.parquet as pq
from measured_run import heading

from controlmill.testing.command import Command, is_busy, wait_gone
from controlmill.testing.hostile_server import HostileServer
from controlmill.testing.picture_server import PictureServer
from controlmill.testing.random_weights import write_weights
from controlmill.testing.ray_head import RayHead
from controlmill.testing.tiny_sd import write_tiny_sd

NUM_IMAGES = 60
IMAGE_SIZE = 128
"""Large enough for a batch of images to be in Ray's object store: what is smaller travels with the call."""
FAULTS = (
    "/404", "/410", "/500", "/reset", "/not-http", "/truncated.jpg", "/html-as.jpg", "/empty.jpg", "/noai",
    "/wrong-content-length", "/huge-dimensions.png", "/gzip-bomb", "/redirect-loop", "/redirect-to-metadata",
)  # fmt: skip
VICTIMS = {"build": ("worker", "driver"), "annotate": ("actor", "worker", "driver"), "train": ("worker", "driver")}
MAX_GROWTH = 1.25
"""A process may have so much more memory at the end than when the first rounds had warmed it up, and:"""
SLACK_BYTES = 48 * 1024 * 1024
WARM_ROUNDS = 2
KILL_WITHIN_S = {"build": 12.0, "annotate": 20.0, "train": 30.0}
MIB = 1024 * 1024
_LIMIT_S = 600


@dataclass
class Memory:
    """What of the long-lived is measured after each round."""

    by_process: dict[str, list[int]] = field(default_factory=dict)
    """Resident bytes by name."""

    def take(self, families: Sequence[psutil.Process]) -> None:
        """Measure all of them now; processes of the same name are one."""
        now: Counter[str] = Counter()
        for process in families:
            with suppress(psutil.Error):
                now[_name(process)] += process.memory_info().rss
        now["/dev/shm"] = shutil.disk_usage("/dev/shm").used  # noqa: S108 where Ray's object store is
        for name, num_bytes in now.items():
            self.by_process.setdefault(name, []).append(num_bytes)

    def grown(self) -> list[str]:
        """Names of what has grown since it was warm."""
        kept = {name: values[WARM_ROUNDS - 1 :] for name, values in self.by_process.items()}
        return [
            name for name, values in kept.items()
            if len(values) > 1 and values[-1] > max(values[0] * MAX_GROWTH, values[0] + SLACK_BYTES)
        ]  # fmt: skip


@dataclass
class Soak:
    """What happened so far, and what is wrong."""

    folder: Path
    head: RayHead
    servers: tuple[PictureServer, HostileServer]
    rng: random.Random
    deadline_s: float
    num_rounds: int = 0
    num_rows: int = 0
    runs: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)

    def round(self) -> None:
        """Make a dataset, add a layer, train, and look at what there is."""
        folder = self.folder / f"round-{self.num_rounds}"
        folder.mkdir()
        num_rows = self._write_urls(folder / "urls.txt")
        dataset, run = folder / "dataset", folder / "run"
        common = ["--ray-address", self.head.address]
        pull = ["--url-list", folder / "urls.txt", "--number-sample-per-shard", 10]
        pull += ["--image-size", IMAGE_SIZE, "--resize-mode", "center_crop", "--annotators", "canny"]
        pull += ["--allow-private-networks", "--retries", 0, "--host-failure-limit", 100_000]
        self.command("build", ["--output-folder", dataset, *pull, *common])
        self.command("annotate", [dataset, "--annotators", "hed", *common])
        train = [dataset, "--condition", "canny", "--output_dir", run, "--max_train_steps", 6, "--report_to", "none"]
        train += ["--pretrained_model_name_or_path", self.folder / "base", "--resolution", 64, "--keep-empty-hints"]
        train += ["--checkpointing_steps", 2, "--num-probe-rows", 0, "--no-preflight", "--train_batch_size", 1]
        self.command("train", [*train, *common], again=["--resume-from-checkpoint", "latest"])
        self.check(dataset, run, num_rows)
        self.num_rounds += 1
        self.num_rows += num_rows
        shutil.rmtree(folder)
        self.memory.take([*self.head.family()[:1], *_long_lived(self.head), *_long_lived_prefect()])

    def _write_urls(self, path: Path) -> int:
        pictures, hostile = self.servers
        urls = [pictures.url(f"/{number}.jpg") for number in range(NUM_IMAGES)]
        urls += [hostile.url(fault) for fault in FAULTS]
        self.rng.shuffle(urls)
        path.write_text("\n".join(urls))
        return len(urls)

    def command(self, name: str, words: Sequence[object], again: Sequence[str] = ()) -> None:
        """Run a command, kill something at a random moment, and run it again until it ends by itself."""
        words = [name, *map(str, words)]
        victim: str | None = self.rng.choice(VICTIMS[name])
        for attempt in range(8):
            there = attempt > 0 and (name != "train" or (Path(words[words.index("--output_dir") + 1])).exists())
            command = Command([*words, *(again if there else ())], self.folder / "log")
            self.runs[name] += 1
            if victim is not None and self._kill(command, victim, name):
                self.kills[f"{victim} of {name}"] += 1
                victim = None
            family = command.family()
            try:
                code = command.process.wait(_LIMIT_S)
            except subprocess.TimeoutExpired:
                command.kill("tree", self.rng)
                self.problems.append(f"{name} did not end within {_LIMIT_S} s: {command.output[-1500:]}")
                return
            left = wait_gone([process for process in family if process.pid != command.process.pid], 60)
            self.problems += [f"{name}: left over: {_name(process)}" for process in left]
            self.problems += [f"{name}: still at work in Ray: {title}" for title in self._at_work()]
            if code == 0 and victim is None:
                return
            victim = None  # it was over before anything could be killed, or has to be run to its end now
            if code == 0:
                return
        self.problems.append(f"{name} did not end well: {command.output[-1500:]}")

    def _kill(self, command: Command, victim: str, name: str) -> bool:
        due_s = time.monotonic() + self.rng.uniform(1, KILL_WITHIN_S[name])
        if not command.wait_for(lambda: time.monotonic() >= due_s):
            return False
        if victim == "driver":
            command.kill("flow", self.rng)
            return True
        title = "Actor." if victim == "actor" else ""

        def busy() -> list[psutil.Process]:
            return [process for process in self.head.family() if is_busy(process, title)]

        if not command.wait_for(lambda: bool(busy())):
            return False
        with suppress(psutil.Error, IndexError):
            self.rng.choice(busy()).kill()
            return True
        return False

    def _at_work(self) -> list[str]:
        """Titles of tasks and actors that are still in Ray a minute after the command that started them has ended."""
        deadline_s = time.monotonic() + 60
        while (titles := self.head.titles()) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        return titles

    def check(self, dataset: Path, run: Path, num_rows: int) -> None:
        """Every row is an image or a failure, once; every image has its maps; the ControlNet is there."""
        keys = {layer: _keys(dataset / layer) for layer in ("source", "image", "failures", "canny", "hed")}
        if sorted(keys["image"] + keys["failures"]) != sorted(keys["source"]) or len(keys["source"]) != num_rows:
            self.problems.append(f"rows: {num_rows} listed, { ({name: len(found) for name, found in keys.items()}) }")
        if not keys["image"] == keys["canny"] == keys["hed"] or len(keys["image"]) != NUM_IMAGES:
            self.problems.append(f"layers do not fit: { ({name: len(found) for name, found in keys.items()}) }")
        if not (run / "controlnet" / "config.json").is_file():
            self.problems.append("there is no ControlNet")
        self.problems += [f"left over: {path}" for path in (*dataset.rglob("*.tmp"), *run.rglob("*.tmp"))]


def _keys(folder: Path) -> list[str]:
    found: list[str] = []
    for path in sorted(folder.glob("*.parquet")):
        found += pq.read_table(path, columns=["key"])["key"].to_pylist()
    return found


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        words = process.cmdline()
        named = [Path(word).name for word in words if "gcs_server" in word or "raylet" in word or "agent" in word]
        known = next(
            (name for name in ("prefect_server", "ray.scripts.scripts") if any(name in w for w in words)), None
        )
        return known or (named[0] if named else process.name())
    return "gone"


def _long_lived(head: RayHead) -> list[psutil.Process]:
    """Ray's own processes: what is named after work comes and goes."""
    found = []
    for process in head.family()[1:]:
        with suppress(psutil.Error):
            if not " ".join(process.cmdline()).startswith("ray::"):
                found.append(process)
    return found


def _long_lived_prefect() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if _name(child) == "prefect_server"]


@contextmanager
def surroundings(seed: int, deadline_s: float) -> Iterator[Soak]:
    """The servers, Ray, Prefect and networks of a soak, all ended with it."""
    from flows.engines import RunServer

    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    temporary = folder / "tmp"
    temporary.mkdir()
    write_weights(folder / "weights", "ControlNetHED.pth")
    write_tiny_sd(folder / "base", unet_widths=(16, 16, 16, 16))
    os.environ.update(CONTROLMILL_WEIGHTS=str(folder / "weights"), XDG_DATA_HOME=str(folder / "data"))
    prefect = RunServer()
    try:
        with PictureServer() as pictures, HostileServer() as hostile, RayHead() as head:
            prefect.wait()
            os.environ.update({**head.environment, "PREFECT_API_URL": prefect.api_url, "TMPDIR": str(temporary)})
            soak = Soak(folder, head, (pictures, hostile), random.Random(seed), deadline_s)
            yield soak
            left = [path.name for path in temporary.iterdir()]
            soak.problems += [f"left over in the temporary folder: {name}" for name in left]
            family = head.family()
        soak.problems += [f"left over of Ray: {_name(process)}" for process in wait_gone(family, 60)]
    finally:
        prefect.stop()
        shutil.rmtree(folder, ignore_errors=True)


def report(soak: Soak, minutes: float, seed: int) -> str:
    """The result file."""
    verdict = "FAILED" if soak.problems else "nothing lost, nothing left over, memory within its bounds"
    lines = [
        *heading("Soak"),
        f"{minutes:.0f} minutes, seed {seed}: {verdict}.",
        "",
        f"{soak.num_rounds} rounds of build, annotate and train; {soak.num_rows:,} rows, each an image or a failure.",
        f"Commands run: {', '.join(f'{name} {num}' for name, num in sorted(soak.runs.items()))}.",
        f"Killed: {', '.join(f'{num} x {name}' for name, num in sorted(soak.kills.items())) or 'nothing'}.",
        "",
        "| of what lives as long as the soak | first round, MiB | warm | at half | last | most |",
        "|---|---|---|---|---|---|",
    ]
    for name, values in sorted(soak.memory.by_process.items()):
        warm = values[min(WARM_ROUNDS, len(values)) - 1]
        half = values[len(values) // 2]
        shown = " | ".join(f"{value / MIB:.0f}" for value in (values[0], warm, half, values[-1], max(values)))
        lines.append(f"| {name} | {shown} |")
    return "\n".join([*lines, "", *(f"- {problem}" for problem in soak.problems), ""])


def main() -> None:
    """Soak, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    started_s = time.monotonic()
    with surroundings(arguments.seed, started_s + arguments.minutes * 60) as soak:
        while time.monotonic() < soak.deadline_s and not soak.problems:
            soak.round()
            print(f"round {soak.num_rounds}: {dict(soak.kills)} {soak.problems}", flush=True)
    soak.problems += [f"memory grown: {name}" for name in soak.memory.grown()]
    text = report(soak, (time.monotonic() - started_s) / 60, arguments.seed)
    print(text)
    if arguments.out:
        arguments.out.write_text(text)
    sys.exit(bool(soak.problems))


if __name__ == "__main__":
    main()
