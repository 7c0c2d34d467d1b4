"""Images from hints and prompts, in files: one PNG each, and a grid of all.

Shapes: B images, C channels, H W height and width in pixels.
"""

import json
from pathlib import Path
from typing import Final

import torch

from controlmill.config.sample import SampleConfig
from controlmill.errors import ConfigError, StorageWriteError
from storage.stored_image import Pixels
from training.base_files import read_json
from training.base_model import BaseModel
from training.checkpoints import PREFIX
from training.controlnet import ControlNets
from training.decoder import take_over, trained_beside
from training.hint_files import Hint, prompts_of, read_hints
from training.net_files import check_fits, find_net
from training.pictures import as_pixels, as_png, grid_of
from training.sample import Sampling, sample

DTYPES: Final = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""By `mixed_precision`."""


def run_sample(config: SampleConfig) -> list[Path]:
    """Generate what `config` asks for; returns the files, the grid first.

    Raises:
        ConfigError: there is no base, no GPU, or a hint cannot be used.
        WeightsMissingError: naming what is not there.
        WeightsUnusableError: a file holds something else.
    """
    folder = find_net(config.controlnet)
    if not folder.is_dir():
        raise ConfigError(f"controlnet: {folder} is a single file; sample takes a folder in diffusers' layout")
    own = _base_of_run(folder)
    reference = config.pretrained_model_name_or_path or own
    if reference is None:
        raise ConfigError(
            f"pretrained_model_name_or_path: give the base; there is no config.json of a run beside {folder}"
        )
    device, dtype = device_of(config.device), DTYPES[config.mixed_precision]
    nets = ControlNets.load(folder).to("cpu" if config.low_vram else device, dtype).eval()
    hints = read_hints(config, nets.num_conditions)
    base = BaseModel.load(
        reference,
        device="cpu" if config.low_vram else device,
        dtype=dtype,
        revision=config.revision,
        variant=config.variant,
    )
    trained = trained_beside(folder)
    if own is not None and trained is not None and _place(reference) == _place(own):
        take_over(base, trained)
    for net in nets.nets:
        check_fits(net, base, f"controlnet: {config.controlnet}")
    rows = [
        _row(base, nets, hint, prompts, config, device if config.low_vram else None)
        for hint, prompts in zip(hints, prompts_of(config, hints), strict=True)
    ]
    return _write(config, hints, rows)


def _row(
    base: BaseModel, nets: ControlNets, hint: Hint, prompts: list[str], config: SampleConfig, device: str | None
) -> list[list[Pixels]]:
    """For each prompt its images; the same noise for each, so that they differ by the prompt only."""
    sampling = Sampling(
        config.num_inference_steps,
        config.guidance_scale,
        config.eta,
        config.seed,
        config.control_strength,
        config.guess_mode,
    )
    num_images = config.num_images
    maps = [one.expand(num_images, -1, -1, -1) for one in hint.maps]
    negative = [config.negative_prompt] * num_images
    return [
        [as_pixels(image) for image in sample(base, nets, maps, [prompt] * num_images, negative, sampling, device)]
        for prompt in prompts
    ]


def _base_of_run(folder: Path) -> str | None:
    """The base that the run trained on, which its `config.json` names; None where it is no run's ControlNet."""
    run = folder.parent.parent if folder.parent.name.startswith(PREFIX) else folder.parent
    path = run / "config.json"
    name = read_json(path).get("pretrained_model_name_or_path") if path.is_file() else None
    return name if isinstance(name, str) else None


def _place(reference: str) -> str:
    """The same for two spellings of one local folder."""
    path = Path(reference).expanduser()
    return str(path.resolve()) if path.exists() else reference


def device_of(wanted: str) -> str:
    """The device that "auto", "cpu" or "cuda" means on this machine.

    Raises:
        ConfigError: there is no GPU.
    """
    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ConfigError("device: torch sees no CUDA device on this machine; use cpu or auto")
    return "cuda" if has_gpu and wanted != "cpu" else "cpu"


def _write(config: SampleConfig, hints: list[Hint], rows: list[list[list[Pixels]]]) -> list[Path]:
    folder = Path(config.output).expanduser()
    written: list[Path] = []
    records = []
    for number, (hint, row, prompts) in enumerate(zip(hints, rows, prompts_of(config, hints), strict=True)):
        for kind, prompt, images in zip(config.kinds, prompts, row, strict=True):
            for index, image in enumerate(images):
                name = f"{number:03d}_{_safe(hint.name)}_{kind}_{index}.png"
                written.append(_write_png(folder / name, image))
                records.append({"file": name, "hint": hint.name, "kind": kind, "prompt": prompt, "seed": config.seed})
    grid = _write_png(folder / "grid.png", grid_of([_cells(hint, row) for hint, row in zip(hints, rows, strict=True)]))
    text = json.dumps({"config": config.model_dump(mode="json"), "images": records}, indent=2, ensure_ascii=False)
    (folder / "samples.json").write_text(text + "\n", encoding="utf-8")
    return [grid, *written]


def _cells(hint: Hint, row: list[list[Pixels]]) -> list[Pixels]:
    return [*(as_pixels(one * 2 - 1) for one in hint.maps), *(image for images in row for image in images)]


def _write_png(path: Path, pixels: Pixels) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(as_png(pixels))
    except OSError as error:
        raise StorageWriteError(f"output: cannot write {path}: {error.strerror}") from error
    return path


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)[:60]
