"""Training a ControlNet of SD 1.5's size on one GPU: images per second, model FLOP utilisation, memory.

    python benchmarks/train_on_gpu.py [--variants 8 16 16-compile 16-checkpoint …] [--out FILE] [--notes FILE.jsonl]

The base has random weights and SD 1.5's real size (benchmarks/sd15.py), images are 512x512, latents and text embeddings
are cached layers, the precision is bf16. Each variant runs the product's loop in this process: reader, step, DeepSpeed,
optimizer. A variant is a batch size with what is switched on beside it: `16-compile-checkpoint` is a batch of 16 with
torch_compile and gradient_checkpointing.

Utilisation is FLOPs of the networks (counted by torch, about 2,265 GFLOP per image; what checkpointing computes twice
counts once) per second, over the rate of a large bf16 matrix product of random numbers on the same GPU.
"""

import argparse
import contextlib
import gc
import json
import os
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from measured_run import heading
from sd15 import write_sd15
from torch.utils.flop_counter import FlopCounterMode
from train_vs_diffusers import encode

from controlmill.config import TrainConfig
from controlmill.testing.training_set import write_training_set
from training.callbacks.base import Callback, UpdateMetrics
from training.loop import Loop
from training.place import Place
from training.setup import assembled

SIZE, NUM_ROWS = 512, 256
WARM_UP = 4
TARGET = 0.4
VARIANTS = ["1", "4", "8", "16", "32", "16-checkpoint", "32-checkpoint", "16-compile", "32-compile"]


class Enough(Exception):  # noqa: N818 - not an error
    """All updates that are wanted were measured: what a run saves at its end is not asked here."""


@dataclass(frozen=True)
class Measured:
    """One variant."""

    variant: str
    images_per_s: float
    peak_bytes: int
    first_s: float
    """From the start of the loop to the end of the first update: with torch_compile, mostly translation."""
    spread: float
    """Slowest update over fastest, after the warm-up."""


class Clock(Callback):
    """Stops the time of updates; the loop itself waits for the GPU once in each."""

    def __init__(self, num_updates: int) -> None:
        self.num_updates = num_updates
        self.ends_s: list[float] = []

    def on_update_end(self, run: Any, metrics: UpdateMetrics) -> None:
        """Note the time; of the first and the last that count, when the GPU is through."""
        del run, metrics
        if len(self.ends_s) + 1 in (WARM_UP, self.num_updates):
            torch.cuda.synchronize()
        self.ends_s.append(time.perf_counter())
        if len(self.ends_s) == self.num_updates:
            raise Enough


def matmul_flops() -> float:
    """FLOPs per second of a bf16 matrix product, 8192 in each direction; the median of 20."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(25):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        a @ b
        events[1].record()
        torch.cuda.synchronize()
        seconds.append(events[0].elapsed_time(events[1]) / 1000)
    return float(2 * 8192**3 / statistics.median(seconds[5:]))


def prepare(folder: Path) -> None:
    """The base, and a dataset with the cached layers."""
    if not (folder / "base").is_dir():
        write_sd15(folder / "base")
    write_training_set(folder, num_rows=NUM_ROWS, size=SIZE, rows_per_shard=NUM_ROWS)
    encode(folder / "dataset", folder / "base", size=SIZE, device="cuda")


def config_of(folder: Path, variant: str) -> TrainConfig:
    """Options of a variant."""
    batch_size, *extras = variant.split("-")
    return TrainConfig(
        train_data_dir=str(folder / "dataset"),
        condition=("canny",),
        pretrained_model_name_or_path=str(folder / "base"),
        output_dir=str(folder / f"run-{variant}-{time.time_ns()}"),
        resolution=SIZE,
        train_batch_size=int(batch_size),
        max_train_steps=1000,
        mixed_precision="bf16",
        num_probe_rows=0,
        preflight=False,
        torch_compile="compile" in extras,
        gradient_checkpointing="checkpoint" in extras,
    )


def measure(folder: Path, variant: str, num_updates: int, profile: Path | None = None) -> Measured:
    """Run the loop until `num_updates` are measured."""
    torch.compiler.reset()  # type: ignore[no-untyped-call]
    # an engine is full of cycles, and its memory is not this variant's
    gc.collect()
    torch.cuda.empty_cache()
    config = config_of(folder, variant)
    clock = Clock(WARM_UP + num_updates)
    with assembled(config, Place(0, 1, torch.device("cuda")), [clock]) as parts:
        torch.cuda.reset_peak_memory_stats()
        started_s = time.perf_counter()
        with contextlib.suppress(Enough):
            Loop(parts).run_to_end()
        peak_bytes = torch.cuda.max_memory_allocated()
        if profile is not None:
            _profile(Loop(parts), clock, profile)
    seconds = [after - before for before, after in zip(clock.ends_s[:-1], clock.ends_s[1:], strict=True)][WARM_UP - 1 :]
    rate = config.train_batch_size * len(seconds) / sum(seconds)
    return Measured(variant, rate, peak_bytes, clock.ends_s[0] - started_s, max(seconds) / min(seconds))


def _profile(loop: Loop, clock: Clock, path: Path) -> None:
    """Where the GPU's time goes, in a table."""
    clock.num_updates = len(clock.ends_s) + 3
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds, record_shapes=True) as profiler, contextlib.suppress(Enough):
        loop.run_to_end()
    tables = {"kernels": profiler.key_averages(), "shapes": profiler.key_averages(group_by_input_shape=True)}
    for name, table in tables.items():
        width = 90
        text = table.table("self_cuda_time_total", 70, max_name_column_width=width, max_shapes_column_width=width)
        path.with_suffix(f".{name}.txt").write_text(text)


def flops_per_image(folder: Path) -> float:
    """FLOPs of the networks for one image, forward and backward."""
    counter = FlopCounterMode(display=False)
    clock = Clock(1)
    place = Place(0, 1, torch.device("cuda"))
    with assembled(config_of(folder, "1"), place, [clock]) as parts, counter, contextlib.suppress(Enough):
        Loop(parts).run_to_end()
    return float(counter.get_total_flops())


def noted(notes: Path | None) -> list[Measured]:
    """What was measured before a time limit ended the benchmark."""
    if notes is None or not notes.exists():
        return []
    return [Measured(**json.loads(line)) for line in notes.read_text().splitlines()]


def report(found: list[Measured], flops: float, rate: float, num_updates: int) -> list[str]:
    """Markdown lines."""
    properties = torch.cuda.get_device_properties(0)
    best = max(found, key=lambda one: one.images_per_s)
    reached = best.images_per_s * flops / rate
    verdict = "holds" if reached >= TARGET else "FAILS"
    return [
        f"{properties.name}, torch {torch.__version__}. SD 1.5's size, {SIZE}x{SIZE}, bf16, cached layers, AdamW on",
        f"float32 weights; {num_updates} updates each after {WARM_UP} of warm-up.",
        f"{flops / 1e9:,.0f} GFLOP per image; a bf16 matrix product of 8192 runs at {rate / 1e12:.0f} TFLOP/s.",
        "",
        "| batch | images/s | utilisation | peak memory | first update | slowest / fastest update |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {one.variant.replace('-', ', ')} | {one.images_per_s:.1f} | {one.images_per_s * flops / rate:.1%} | "
            f"{one.peak_bytes / 2**30:.1f} GiB | {one.first_s:.1f} s | {one.spread:.2f} |"
            for one in found
        ),
        "",
        f"To reach: {TARGET:.0%} of the measured matrix rate. Best: {reached:.1%} ({best.variant}); {verdict}.",
    ]


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=VARIANTS)
    parser.add_argument("--updates", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="base and dataset, made where they are not there")
    parser.add_argument("--profile", type=Path, help="folder for tables of kernels")
    parser.add_argument(
        "--notes", type=Path, help="a JSON line per variant, written at once; what is in it is not measured again"
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU here: nothing is measured")
        return
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if not (folder / "dataset").is_dir():
            prepare(folder)
        rate, flops = matmul_flops(), flops_per_image(folder)
        found = noted(arguments.notes)
        for variant in arguments.variants:
            if variant in (one.variant for one in found):
                continue
            profile = arguments.profile and arguments.profile / variant
            found.append(measure(folder, variant, arguments.updates, profile))
            if arguments.notes:
                with arguments.notes.open("a") as notes:
                    notes.write(json.dumps(asdict(found[-1])) + "\n")
    text = "\n".join(report(found, flops, rate, arguments.updates)) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text("\n".join(heading("Training a ControlNet of SD 1.5's size on a GPU")) + "\n" + text)


if __name__ == "__main__":
    main()
