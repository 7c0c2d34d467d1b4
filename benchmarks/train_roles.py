"""The measured processes of train_vs_diffusers.py: theirs, with or without notes of what it computes, and ours."""

import json
import os
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZE, BATCH, SEED = 128, 4, 0
LEARNING_RATE = "1e-5"


def watch_updates(path: Path, started_s: float) -> Callable[[], None]:
    """Note wall and CPU time after each optimizer step of this process; returns what writes the notes."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    notes: list[tuple[float, float]] = []

    def note(*_: Any) -> None:
        notes.append((time.time() - started_s, time.process_time()))

    register_optimizer_step_post_hook(note)

    def write() -> None:
        path.write_text(json.dumps({"notes": notes, "peak_bytes": peak_bytes()}))

    return write


def peak_bytes() -> int:
    """The most memory this process has had; getrusage would count what it was forked from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


class Recorder:
    """What their script computes with, kept so that ours can compute the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._steps: list[dict[str, Any]] = []

    def install(self) -> None:
        """Listen at the places that every step goes through."""
        import diffusers
        import torch.nn.functional as F  # noqa: N812 as everybody calls it
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        make = diffusers.ControlNetModel.from_unet
        mse, sample = F.mse_loss, DiagonalGaussianDistribution.sample
        forward, add_noise = diffusers.ControlNetModel.forward, diffusers.DDPMScheduler.add_noise

        def from_unet(*arguments: Any, **options: Any) -> Any:
            made = make(*arguments, **options)
            made.save_pretrained(self._folder / "start")
            return made

        def record_sample(distribution: Any, generator: Any = None) -> Any:
            drawn = sample(distribution, generator)
            self._steps.append({"mean": distribution.mean, "std": distribution.std, "drawn": drawn})
            return drawn

        def record_noise(schedule: Any, latents: Any, noise: Any, timesteps: Any) -> Any:
            self._steps[-1] |= {"noise": noise, "timesteps": timesteps}
            return add_noise(schedule, latents, noise, timesteps)

        def record_forward(net: Any, *arguments: Any, **options: Any) -> Any:
            self._steps[-1] |= {"hidden": options["encoder_hidden_states"], "hint": options["controlnet_cond"]}
            return forward(net, *arguments, **options)

        def record_loss(*arguments: Any, **options: Any) -> Any:
            loss = mse(*arguments, **options)
            self._steps[-1]["loss"] = loss.detach()
            return loss

        diffusers.ControlNetModel.from_unet = from_unet
        diffusers.ControlNetModel.forward = record_forward
        diffusers.DDPMScheduler.add_noise = record_noise
        DiagonalGaussianDistribution.sample = record_sample
        F.mse_loss = record_loss

    def write(self) -> None:
        """Keep the steps as tensors on the disk."""
        import torch

        torch.save(self._steps, self._folder / "steps.pt")


def be_theirs(folder: Path, script: Path, num_updates: int, *, recorded: bool) -> None:
    """Run their script in this process."""
    started_s = float(os.environ["STARTED_S"])
    write = watch_updates(folder / "notes.json", started_s)
    recorder = Recorder(folder)
    if recorded:
        recorder.install()
    same = common_options(folder, num_updates)
    sys.argv = [str(script), *same, "--train_data_dir", str(folder / "imagefolder")]
    sys.argv += ["--image_column", "image", "--conditioning_image_column", "conditioning_image"]
    sys.argv += ["--caption_column", "text", "--seed", str(SEED), "--output_dir", str(folder / "theirs")]
    runpy.run_path(str(script), run_name="__main__")
    write()
    if recorded:
        recorder.write()


def common_options(folder: Path, num_updates: int) -> list[str]:
    """Words of both command lines."""
    return [
        *("--pretrained_model_name_or_path", str(folder / "base"), "--resolution", str(SIZE)),
        *("--train_batch_size", str(BATCH), "--max_train_steps", str(num_updates), "--learning_rate", LEARNING_RATE),
        *("--checkpointing_steps", "100000", "--mixed_precision", "no", "--proportion_empty_prompts", "0.5"),
        *("--report_to", "tensorboard"),
    ]


def command_words(folder: Path, output: Path) -> list[str]:
    """The same training as a command line of ours, of two updates."""
    return [
        *("train", str(folder / "dataset"), "--condition", "canny", "--keep-empty-hints", "--num-probe-rows", "0"),
        *(*common_options(folder, 2), "--seed", str(SEED), "--output_dir", str(output)),
    ]


def be_ours(folder: Path, dataset: str, num_updates: int) -> None:
    """Run one rank of ours in this process, without Ray, as theirs runs without a launcher."""
    import torch
    import torch.distributed as dist

    from controlmill.config import TrainConfig
    from training.loop import train
    from training.place import Place

    started_s = float(os.environ["STARTED_S"])
    write = watch_updates(folder / "notes.json", started_s)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    config = TrainConfig(
        train_data_dir=str(folder / dataset),
        condition=("canny",),
        pretrained_model_name_or_path=str(folder / "base"),
        output_dir=str(folder / f"ours-{dataset}-{time.time_ns()}"),
        resolution=SIZE,
        train_batch_size=BATCH,
        max_train_steps=num_updates,
        learning_rate=float(LEARNING_RATE),
        checkpointing_steps=100_000,
        num_probe_rows=0,
        keep_empty_hints=True,
        preflight=False,
        seed=SEED,
    )
    train(config, Place(0, 1, torch.device("cpu")))
    write()
