"""What a run leaves, used: by the command line, and by diffusers' own pipelines after an export in either layout."""

import json
from pathlib import Path

import cv2
import diffusers
import numpy as np
import pytest
import torch

from controlmill.cli.main import main
from controlmill.config.model import ModelOptions
from controlmill.testing.tiny_sd import Kind, write_tiny_sd
from training.base_model import BaseModel
from training.controlnet import create


def write_run(folder: Path, kind: Kind, num_conditions: int = 1) -> Path:
    """A run on a tiny base, as if it had been trained: its connections are not zero any more."""
    base = write_tiny_sd(folder / "base", kind)
    options = ModelOptions(
        pretrained_model_name_or_path=str(base),
        connection_init="gaussian",
        hint_init="kaiming",
        hint_channels=(4, 4, 8, 8),
    )
    nets = create(BaseModel.load(str(base), parts=["unet"]), options, 0, num_conditions)
    (folder / "run").mkdir()
    nets.save(folder / "run" / "controlnet")
    (folder / "run" / "config.json").write_text(json.dumps({"pretrained_model_name_or_path": str(base)}))
    return folder / "run"


def write_hint(path: Path) -> Path:
    pixels = np.zeros((64, 64, 3), np.uint8)
    cv2.circle(pixels, (32, 32), 20, (255, 255, 255), 1)
    cv2.imwrite(str(path), pixels)
    return path


# diffusers 0.42 has no reader for SDXL's size embedding in the official code's layout
@pytest.mark.parametrize(("kind", "layout"), [("sd1", "diffusers"), ("sd1", "cldm"), ("sdxl", "diffusers")])
def test_an_exported_controlnet_generates_in_the_pipeline_of_diffusers(kind: Kind, layout: str, tmp_path: Path) -> None:
    run = write_run(tmp_path, kind)
    output = tmp_path / ("net.safetensors" if layout == "cldm" else "net")
    assert main(["export-model", str(run), "--layout", layout, "--output", str(output)]) == 0
    if layout == "cldm":
        net = diffusers.ControlNetModel.from_single_file(
            str(output), config=str(run / "controlnet"), local_files_only=True, low_cpu_mem_usage=False
        )
    else:
        net = diffusers.ControlNetModel.from_pretrained(output, low_cpu_mem_usage=False)
    pipeline_class = getattr(diffusers, f"StableDiffusion{'XL' if kind == 'sdxl' else ''}ControlNetPipeline")
    pipeline = pipeline_class.from_pretrained(tmp_path / "base", controlnet=net, low_cpu_mem_usage=False)
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)

    def generated(strength: float) -> np.ndarray:
        images = pipeline(
            "red disc on a blue background", image=torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)),
            num_inference_steps=2, controlnet_conditioning_scale=strength, output_type="np",
            generator=torch.Generator().manual_seed(0),
        ).images  # fmt: skip
        return np.asarray(images[0])

    image = generated(1.0)
    assert image.shape == (64, 64, 3)
    assert image.std() > 0.02
    assert np.abs(image - generated(0.0)).mean() > 0.005


def test_the_command_line_generates_images_and_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, hint, out = write_run(tmp_path, "sd1"), write_hint(tmp_path / "ring.png"), tmp_path / "out"
    words = [
        "sample",
        "--controlnet",
        run / "controlnet",
        "--hint",
        hint,
        "--prompt",
        "red disc, best",
        "--output",
        out,
    ]
    words += ["--prompt-kinds", "none,own", "--num-images", "2", "--num-inference-steps", "2", "--low-vram"]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out.split()
    names = [f"000_ring_{kind}_{index}.png" for kind in ("none", "own") for index in (0, 1)]
    assert [Path(line).name for line in printed] == ["grid.png", *names]
    pictures = [cv2.imread(str(out / name)) for name in names]
    assert all(picture is not None and picture.shape == (64, 64, 3) for picture in pictures)
    assert not np.array_equal(pictures[0], pictures[1])
    grid = cv2.imread(str(out / "grid.png"))
    assert grid is not None
    assert grid.shape == (72, 5 * 68 + 4, 3)
    recorded = json.loads((out / "samples.json").read_text())["images"]
    assert [one["prompt"] for one in recorded] == ["", "", "red disc, best", "red disc, best"]


def test_what_is_missing_is_said_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, hint = write_run(tmp_path, "sd1"), write_hint(tmp_path / "ring.png")

    def said(*words: object) -> str:
        assert main(["sample", "--hint", str(hint), "--output", str(tmp_path / "out"), *map(str, words)]) in (2, 7)
        return capsys.readouterr().err

    assert "there is no /nowhere" in said("--controlnet", "/nowhere")
    (run / "config.json").unlink()
    assert "pretrained_model_name_or_path: give the base" in said("--controlnet", run / "controlnet")
    if not torch.cuda.is_available():
        base = ("--pretrained-model-name-or-path", tmp_path / "base")
        assert "sees no CUDA device" in said("--controlnet", run / "controlnet", *base, "--device", "cuda")
    other = ("--pretrained-model-name-or-path", write_tiny_sd(tmp_path / "xl", "sdxl"))
    assert "is for another kind of base: its block_out_channels" in said("--controlnet", run / "controlnet", *other)
    assert main(["export-model", str(tmp_path), "--layout", "cldm", "--output", str(tmp_path / "o.safetensors")]) == 7
    assert "has no finished ControlNet" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
