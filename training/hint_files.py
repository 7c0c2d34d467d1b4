"""Hints for generating: image files, or held-out rows of a dataset with their captions.

Shapes: C channels, H W height and width in pixels, multiples of 8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from controlmill.config.sample import SampleConfig
from controlmill.config.training_data import TrainingDataOptions
from controlmill.errors import ConfigError
from storage.stored_image import Pixels
from training.batch import PIXELS_PER_LATENT

_DATASET_RESOLUTION = 512


@dataclass(frozen=True, slots=True)
class Hint:
    """What one row of the grid is generated from."""

    name: str
    """Of its file, or the key of its row."""
    maps: tuple[Tensor, ...]
    """One (3, H, W) in [0, 1] per condition."""
    caption: str | None = None
    """The dataset's."""


def read_hints(config: SampleConfig, num_conditions: int) -> list[Hint]:
    """All hints.

    Args:
        config: files, or a dataset.
        num_conditions: that the ControlNet takes; the files of one hint are then joined by "+": "canny.png+depth.png".

    Raises:
        ConfigError: a file is no image, or there are too few for a hint.
    """
    if config.dataset is None:
        return [_from_files(given, num_conditions, config.resolution) for given in config.hint]
    if len(config.condition) != num_conditions:
        raise ConfigError(
            f"condition: the ControlNet takes {num_conditions}, not {len(config.condition)}: {config.condition}"
        )
    return _from_dataset(config)


def _from_files(given: str, num_conditions: int, resolution: int | None) -> Hint:
    paths = [given] if num_conditions == 1 else given.split("+")
    if len(paths) != num_conditions:
        raise ConfigError(
            f"hint: {given}: the ControlNet takes {num_conditions} hints; join their files by +: canny.png+depth.png"
        )
    maps = [_fitted(_read(path), resolution) for path in paths]
    if len({pixels.shape for pixels in maps}) > 1:
        raise ConfigError(f"hint: {given}: the files are of different sizes: {[pixels.shape[:2] for pixels in maps]}")
    return Hint(Path(paths[0]).stem, tuple(_tensor(pixels) for pixels in maps))


def _read(path: str) -> Pixels:
    try:
        encoded = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"hint: cannot read {path}: {error.strerror}") from error
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB) if encoded else None
    if pixels is None:
        raise ConfigError(f"hint: {path} is not an image that can be read")
    return np.asarray(pixels, np.uint8)


def _fitted(pixels: Pixels, resolution: int | None) -> Pixels:
    """Scaled to a shorter side of `resolution`, and cropped in the middle to multiples of 8."""
    height, width = pixels.shape[:2]
    if resolution is not None and resolution != min(height, width):
        factor = resolution / min(height, width)
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        pixels = np.asarray(cv2.resize(pixels, (round(width * factor), round(height * factor)), interpolation=method))
        height, width = pixels.shape[:2]
    cut_height, cut_width = height % PIXELS_PER_LATENT, width % PIXELS_PER_LATENT
    if min(height - cut_height, width - cut_width) < PIXELS_PER_LATENT:
        raise ConfigError(f"hint: {width} x {height} pixels are too few for one latent; give resolution")
    top, left = cut_height // 2, cut_width // 2
    return pixels[top : top + height - cut_height, left : left + width - cut_width]


def _tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 255


def _from_dataset(config: SampleConfig) -> list[Hint]:
    """Held-out rows, which no training run with a probe has seen."""
    from training.reader.reader import ShardReader

    options = TrainingDataOptions(
        train_data_dir=str(config.dataset),
        condition=config.condition,
        resolution=config.resolution or _DATASET_RESOLUTION,
        proportion_empty_prompts=0.0,
    )
    with ShardReader(options, batch_size=1, num_probe_rows=config.num_rows) as reader:
        batch = reader.held_out(config.num_rows)
    each = zip(*batch.hints, strict=True)
    return [Hint(*row) for row in zip(batch.keys, each, batch.prompts, strict=True)]


def prompts_of(config: SampleConfig, hints: Sequence[Hint]) -> list[list[str]]:
    """For each hint one prompt per kind, with what is added behind it."""
    table = []
    for hint in hints:
        texts = {
            "none": "",
            "default": config.default_prompt,
            "automatic": hint.caption or "",
            "own": config.prompt or "",
        }
        table.append([_with_added(texts[kind], config.added_prompt) for kind in config.kinds])
    return table


def _with_added(text: str, added: str) -> str:
    return f"{text}, {added}" if text and added else text
