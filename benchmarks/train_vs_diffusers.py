"""Training beside diffusers' train_controlnet.py: the same tiny Stable Diffusion, data, batch, precision, one thread.

Their script is not in the package: give it with --script, or put that of release 0.40.0 where `SCRIPT` says. Both run
against the diffusers that controlmill is installed with; accelerate is installed beside it, into the cache.

    python benchmarks/train_vs_diffusers.py --out benchmarks/results/FILE.md
"""

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measured_run import heading
from train_roles import BATCH, LEARNING_RATE, SEED, SIZE, be_ours, be_theirs, command_words

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "controlmill"
SCRIPT = CACHE / "diffusers-examples-0.40.0" / "train_controlnet.py"
ACCELERATE = "accelerate==1.10.1"
# The VAE costs 1.4 times what the UNet costs, in FLOPs and in CPU time, as in SD 1.5; and the UNet is wide enough that
# the hint network, whose widths are fixed in their script, is not most of the ControlNet.
UNET_WIDTHS = (128, 192, 256, 256)
VAE_WIDTHS = (64, 96, 112, 128)
NUM_ROWS = 64
NUM_COMPARED = 4
WARM_UP = 2
TARGETS = {"cached": 0.67, "uncached": 1.0}


@dataclass(frozen=True)
class Measured:
    """One run of one program."""

    wall_s: float
    """Seconds per update, after the warm-up."""
    cpu_s: float
    peak_bytes: int
    first_s: float
    """From the start of the process to the end of the first update."""


def prepare(folder: Path) -> None:
    """Write the base, the dataset, the same as an imagefolder, and a copy with the cached layers."""
    from controlmill.testing.tiny_sd import write_tiny_sd
    from controlmill.testing.training_set import write_training_set

    write_tiny_sd(folder / "base", unet_widths=UNET_WIDTHS, vae_widths=VAE_WIDTHS)
    write_training_set(folder, num_rows=NUM_ROWS, size=SIZE, encode_format="png")
    as_imagefolder(folder / "dataset", folder / "imagefolder")
    shutil.copytree(folder / "dataset", folder / "cached")
    encode(folder / "cached", folder / "base")


def encode(dataset_folder: Path, base_folder: Path, *, size: int = SIZE, device: str = "cpu") -> None:
    """Make the cached layers as `controlmill encode` does on Ray, in this process."""
    from controlmill.config import EncodeConfig
    from flows.encoding import base_of, encoding_of, shards_to_encode
    from storage.dataset import Dataset
    from training.encode_shard import encode_shard
    from training.reader.cache import LATENT, TEXT

    dataset = Dataset.open(str(dataset_folder))
    config = EncodeConfig(
        output_folder=str(dataset_folder), pretrained_model_name_or_path=str(base_folder), resolution=size
    )
    encoding = encoding_of(dataset, config)
    base = base_of(encoding, str(base_folder), device)
    for shard in list(shards_to_encode(dataset, encoding)):
        encode_shard(dataset, shard, base, encoding, (LATENT, TEXT), lambda _: None)


def as_imagefolder(dataset: Path, target: Path) -> None:
    """The pictures, hints and prompts as Hugging Face's imagefolder has them."""
    import pyarrow.parquet as pq

    from storage.schema import CONDITION_COLUMN

    target.mkdir()
    lines = []
    for path in sorted((dataset / "image").glob("*.parquet")):
        images = pq.read_table(path).to_pylist()
        hints = pq.read_table(dataset / "canny" / path.name).to_pylist()
        for image, hint in zip(images, hints, strict=True):
            names = f"{image['key']}.png", f"{image['key']}_hint.png"
            (target / names[0]).write_bytes(image["image"]["bytes"])
            (target / names[1]).write_bytes(hint[CONDITION_COLUMN]["bytes"])
            text = image["caption"] or "a disc"
            lines.append({"file_name": names[0], "conditioning_image_file_name": names[1], "text": text})
    (target / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def flop_ratio(base: Path) -> float:
    """FLOPs of the VAE's encoder over those of the UNet, for one image; 1.39 for SD 1.5 at 512 pixels."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from training.base_model import BaseModel
    from training.batch import PromptEmbeddings

    model = BaseModel.load(str(base), parts=("unet", "vae"))
    counts = []
    side = SIZE // 8
    embeddings = PromptEmbeddings(torch.zeros(1, 77, model.unet.config.cross_attention_dim))
    for work in (
        lambda: model.encode_pixels(torch.zeros(1, 3, SIZE, SIZE)),
        lambda: model.predict(torch.zeros(1, 4, side, side), torch.zeros(1, dtype=torch.int64), embeddings),
    ):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            work()
        counts.append(counter.get_total_flops())
    return counts[0] / counts[1]


def run(words: Sequence[str], folder: Path) -> Measured:
    """One program in a process of its own, with one thread."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "STARTED_S": str(time.time()),
        "PYTHONPATH": os.pathsep.join([*sys.path, str(peer_folder())]),
    }
    log = folder / f"{words[0]}.log"
    with log.open("ab") as log_file:
        done = subprocess.run(
            [sys.executable, __file__, "--folder", str(folder), *words],
            env=environment,
            stdout=log_file,
            stderr=log_file,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(log.read_text(errors="replace")[-3000:])
    found = json.loads((folder / "notes.json").read_text())
    (first, *_), after = found["notes"], found["notes"][WARM_UP - 1 :]
    num_updates = len(after) - 1
    wall_s, cpu_s = ((after[-1][column] - after[0][column]) / num_updates for column in (0, 1))
    return Measured(wall_s, cpu_s, found["peak_bytes"], first[0])


def first_update_of_command(folder: Path) -> float:
    """Seconds from the start of `controlmill train`, Ray and preflight included, to the end of its first update."""
    output = folder / f"command-{time.time_ns()}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    started_s = time.perf_counter()
    with (folder / "command.log").open("wb") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "controlmill.cli.main", *command_words(folder, output)],
            env=environment,
            stdout=log_file,
            stderr=log_file,
        )
    metrics = output / "metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.05)
    first_s = time.perf_counter() - started_s
    if process.wait():
        raise RuntimeError((folder / "command.log").read_text(errors="replace")[-3000:])
    return first_s


def peer_folder() -> Path:
    """Accelerate alone, for their script; everything it needs is there with controlmill."""
    folder = CACHE / ACCELERATE.replace("==", "-")
    if importlib.util.find_spec("accelerate") is None and not (folder / "accelerate").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), ACCELERATE]
        subprocess.run(pip, check=True)
    return folder


def same_losses(folder: Path) -> list[tuple[float, float]]:
    """Their recorded losses beside ours: the same start, latents, noise, prompts and hints, updates of our own.

    The posterior is encoded again by our base from nothing but its moments; the weights move by our engine.
    """
    import torch
    import torch.distributed as dist

    from controlmill.config import TrainConfig
    from training.base_model import BaseModel
    from training.batch import PromptEmbeddings
    from training.controlnet import create
    from training.deepspeed_config import deepspeed_config
    from training.engine import Engine
    from training.objective import Objective
    from training.optimizer import make_optimizer

    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    base = BaseModel.load(str(folder / "base"), parts=("unet", "vae"))
    values: dict[str, Any] = {
        "train_data_dir": "none",
        "condition": ("canny",),
        "pretrained_model_name_or_path": str(folder / "base"),
        "controlnet_model_name_or_path": str(folder / "start"),
        "learning_rate": float(LEARNING_RATE),
    }
    config = TrainConfig.model_validate(values)
    nets = create(base, config, SEED)
    optimizer = make_optimizer(config, nets.parameters(), config.learning_rate)
    device = torch.device("cpu")
    engine = Engine(nets, optimizer, deepspeed_config(config, use_gpu=False), device=device)
    objective = Objective(config, alphas_cumprod_T=base.alphas_cumprod, prediction_type=base.prediction_type)
    pairs = []
    for step in torch.load(folder / "steps.pt", weights_only=True):
        unit_noise = (step["drawn"] - step["mean"]) / step["std"]
        latents = base.sample_latents(step["mean"], step["std"], unit_noise)
        timesteps, prompts = step["timesteps"], PromptEmbeddings(step["hidden"])
        noisy = base.add_noise(latents, step["noise"], timesteps)
        residuals = engine(noisy, timesteps, prompts, [step["hint"]])
        predicted = base.predict(noisy, timesteps, prompts, residuals)
        target = base.target(latents, step["noise"], timesteps)
        loss = objective.losses(predicted, target, timesteps).mean()
        engine.backward(loss, is_last=True)
        engine.step(config.learning_rate)
        pairs.append((float(step["loss"]), float(loss.detach())))
    return pairs


def report(
    folder: Path, runs: dict[str, list[Measured]], commands: list[float], pairs: list[tuple[float, float]]
) -> list[str]:
    """Markdown lines."""
    lines = ["| | s/update | CPU-s/update | peak memory | first update after |", "|---|---|---|---|---|"]
    medians: dict[str, tuple[float, float, float]] = {}
    for name, found in runs.items():
        wall_s = statistics.median(one.wall_s for one in found)
        cpu_s = statistics.median(one.cpu_s for one in found)
        peak = statistics.median(one.peak_bytes for one in found)
        first_s = statistics.median(one.first_s for one in found)
        medians[name] = wall_s, cpu_s, peak
        lines.append(f"| {name} | {wall_s:.3f} | {cpu_s:.3f} | {peak / 2**20:.0f} MiB | {first_s:.1f} s |")
    lines.append(f"| `controlmill train`, uncached | | | | {statistics.median(commands):.1f} s |")
    lines.append("")
    for name, target in TARGETS.items():
        ratios = [ours / theirs for ours, theirs in zip(medians[name], medians["diffusers"], strict=True)]
        lines.append(
            f"- {name}: {ratios[0]:.2f} of their wall time and {ratios[1]:.2f} of their CPU time per update "
            f"(to reach: {target}), {ratios[2]:.2f} of their peak memory (to reach: 1.0)."
        )
    worst = max(abs(ours - theirs) / theirs for theirs, ours in pairs)
    lines.append(f"- Losses of {len(pairs)} updates on the same batches differ by {worst:.1e} of their value at most.")
    lines.append(
        f"- FLOPs of the VAE's encoder over those of the UNet: {flop_ratio(folder / 'base'):.2f} (SD 1.5: 1.39)."
    )
    return [*lines, ""]


def measure(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Run all programs in turns and compare them."""
    prepare(folder)
    script = ["--script", str(arguments.script)]
    updates = ["--updates", str(arguments.updates)]
    run(["theirs", *script, "--updates", str(NUM_COMPARED), "--recorded"], folder)
    pairs = same_losses(folder)
    runs: dict[str, list[Measured]] = {"diffusers": [], "uncached": [], "cached": []}
    commands = []
    for _ in range(arguments.rounds):
        commands.append(first_update_of_command(folder))
        runs["diffusers"].append(run(["theirs", *script, *updates], folder))
        runs["uncached"].append(run(["ours", "--dataset", "dataset", *updates], folder))
        runs["cached"].append(run(["ours", "--dataset", "cached", *updates], folder))
    return [
        *heading("Training beside diffusers' train_controlnet.py"),
        f"Median of {arguments.rounds} interleaved rounds of {arguments.updates} updates, {WARM_UP} of them warm-up.",
        f"One process, one thread, float32, {SIZE}x{SIZE}, batch {BATCH}.",
        "uncached and cached call the training loop of a rank in their process, without Ray and without preflight.",
        "The last row is the command as typed: it starts Ray, Prefect's server and a worker, and runs preflight.",
        "",
        *report(folder, runs, commands, pairs),
    ]


def main() -> None:
    """Measure, or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", nargs="?", choices=["theirs", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--script", type=Path, default=SCRIPT)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dataset", default="dataset", help=argparse.SUPPRESS)
    parser.add_argument("--recorded", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role == "theirs":
        be_theirs(arguments.folder, arguments.script, arguments.updates, recorded=arguments.recorded)
        return
    if arguments.role == "ours":
        be_ours(arguments.folder, arguments.dataset, arguments.updates)
        return
    if not arguments.script.is_file():
        parser.error(f"{arguments.script} is not there; give examples/controlnet/train_controlnet.py of diffusers 0.40")
    with tempfile.TemporaryDirectory() as folder:
        text = "\n".join(measure(arguments, arguments.folder or Path(folder)))
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
