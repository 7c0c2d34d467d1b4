"""Line drawings without a network: what is darker than its surroundings.

The "standard" line art of ControlNet's web interfaces (controlnet_aux, lineart_standard): the difference to a blurred
copy, scaled by its median.
"""

from collections.abc import Sequence
from typing import ClassVar

import cv2
import numpy as np
from pydantic import Field

from controlmill.config.base import Options
from tasks.annotators.base import Annotation, Annotator, Polarity
from tasks.images.types import Pixels, as_pixels

_LEAST_SCALE = 16.0
_MEDIAN_BECOMES = 127


class LineartStandardOptions(Options):
    """How wide the surroundings are, and what counts as a line."""

    gaussian_sigma: float = Field(default=6.0, gt=0, le=100)
    """Width of the blur in pixels."""
    intensity_threshold: float = Field(default=8.0, ge=0, le=255)
    """Differences above this are lines; their median becomes half white."""


class LineartStandard(Annotator):
    """White lines on black where all channels are darker than around them.

    The flag `empty` says that no pixel is a line.
    """

    name = "lineart_standard"
    version: ClassVar[str] = "1"
    options_model: ClassVar[type[Options]] = LineartStandardOptions
    polarity: ClassVar[Polarity] = "white_on_black"
    flags: ClassVar[tuple[str, ...]] = ("empty",)
    options: LineartStandardOptions

    def setup(self, device: str = "cpu") -> None:
        """One thread per image: the images are what is worked on in parallel."""
        del device
        cv2.setNumThreads(1)

    def annotate(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[Annotation]:
        """Lines of each image."""
        del keys
        return [self._lines(image) for image in images]

    def _lines(self, image: Pixels) -> Annotation:
        values = image.astype(np.float32)
        darker = (cv2.GaussianBlur(values, (0, 0), self.options.gaussian_sigma) - values).min(axis=2).clip(0, 255)
        lines = darker[darker > self.options.intensity_threshold]
        scale = max(_LEAST_SCALE, float(np.median(lines))) if lines.size else _LEAST_SCALE
        drawn = as_pixels((darker / np.float32(scale) * _MEDIAN_BECOMES).clip(0, 255).astype(np.uint8))
        return Annotation(drawn, {"empty": not lines.size})
