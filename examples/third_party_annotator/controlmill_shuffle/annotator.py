"""Content shuffle: what a picture is painted with, without what it shows.

The condition of ControlNet 1.1's shuffle model: every pixel is taken from somewhere else, neighbours from neighbouring
places, so that colours and textures stay and shapes go.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from controlmill.config.base import Options
from tasks.annotators.base import Annotation, Annotator
from tasks.annotators.draw import draw_integer
from tasks.images.types import Pixels, as_pixels


class ShuffleOptions(Options):
    """How finely the picture is shuffled."""

    blob_px: int = Field(default=256, ge=8, le=4096)
    """Distance over which the displacement changes: larger blobs leave larger pieces whole."""


class Shuffle(Annotator):
    """The picture, shuffled. `colors_kept` is the share of its colours that are still there.

    The flag `flat` says that the picture has one colour, so that there is nothing to shuffle.
    """

    name = "shuffle"
    version: ClassVar[str] = "1"
    options_model: ClassVar[type[Options]] = ShuffleOptions
    channels: ClassVar[Literal[1, 3]] = 3
    flags: ClassVar[tuple[str, ...]] = ("flat",)
    options: ShuffleOptions

    @classmethod
    def columns(cls) -> list[pa.Field]:
        """The share of colours, and whether the picture is flat."""
        return [pa.field("colors_kept", pa.float32()), *super().columns()]

    def setup(self, device: str = "cpu") -> None:
        """One thread per image: the images are what is worked on in parallel."""
        del device
        cv2.setNumThreads(1)

    def annotate(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[Annotation]:
        """Shuffle each image by what is drawn for its key."""
        return [self._shuffled(image, key) for image, key in zip(images, keys, strict=True)]

    def _shuffled(self, image: Pixels, key: str) -> Annotation:
        height, width = image.shape[:2]
        random = np.random.default_rng(draw_integer(0, 2**63 - 1, seed=self.seed, key=key, name="shuffle"))
        across = _smooth_noise(random, height, width, self.options.blob_px) * np.float32(width - 1)
        down = _smooth_noise(random, height, width, self.options.blob_px) * np.float32(height - 1)
        shuffled = as_pixels(cv2.remap(image, across, down, cv2.INTER_LINEAR))
        before, after = _colors(image), _colors(shuffled)
        kept = float((before & after).sum() / before.sum())
        return Annotation(shuffled, {"colors_kept": kept, "flat": bool((image == image[0, 0]).all())})


def _smooth_noise(random: np.random.Generator, height: int, width: int, blob_px: int) -> NDArray[np.float32]:
    """A field (H, W) of 0 to 1 that changes smoothly over `blob_px` pixels; both 0 and 1 are reached."""
    coarse = random.random((height // blob_px + 2, width // blob_px + 2), dtype=np.float32)
    # one blob more on every side than is used: at the edges of what is enlarged it does not change
    wide = cv2.resize(coarse, (width + 2 * blob_px, height + 2 * blob_px), interpolation=cv2.INTER_CUBIC)
    field = wide[blob_px : blob_px + height, blob_px : blob_px + width]
    spread = float(field.max() - field.min())
    return np.asarray((field - field.min()) / (spread or 1.0), dtype=np.float32)


def _colors(image: Pixels) -> NDArray[np.bool_]:
    """Which of 512 colours, 8 levels of each channel, a picture (H, W, 3) has."""
    levels = (image >> 5).astype(np.int64)
    there = np.zeros(512, dtype=bool)
    there[(levels[:, :, 0] << 6) + (levels[:, :, 1] << 3) + levels[:, :, 2]] = True
    return there
