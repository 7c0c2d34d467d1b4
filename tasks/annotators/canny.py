"""Canny edges, with fixed thresholds or with thresholds drawn per row as ControlNet's own training data had them.

Canny, "A Computational Approach to Edge Detection", 1986. The ControlNet paper (section 3.4 of its supplement, "random
thresholds") never gave its ranges; they are options here, and the values used are columns.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Self

import cv2
import pyarrow as pa
from pydantic import BeforeValidator, model_validator

from controlmill.config.base import Options
from tasks.annotators.base import Annotation, Annotator, Polarity
from tasks.annotators.draw import draw_integer
from tasks.images.types import Pixels, as_pixels

# The 3x3 Sobel gradient |dx| + |dy| of 8-bit pixels is at most 8 * 255: a higher threshold lets no edge pass.
_MAX_THRESHOLD = 2040


def _as_range(value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else value
    fits = isinstance(pair, list | tuple) and len(pair) == 2 and all(type(bound) is int for bound in pair)
    if not fits or not 0 <= pair[0] <= pair[1] <= _MAX_THRESHOLD:
        raise ValueError(f"a threshold is a whole number, or a range [low, high] of them, from 0 to {_MAX_THRESHOLD}")
    return pair[0], pair[1]


Threshold = Annotated[tuple[int, int], BeforeValidator(_as_range)]


class CannyOptions(Options):
    """Thresholds of the gradient |dx| + |dy|: a number, or a range [low, high] of which each row draws its own."""

    low_threshold: Threshold = (100, 100)
    """Edges are followed down to this gradient."""
    high_threshold: Threshold = (200, 200)
    """Edges start where the gradient is at least this."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.low_threshold[0] > self.high_threshold[0]:
            raise ValueError(
                f"low_threshold: {self.low_threshold[0]} is above the lowest high_threshold, {self.high_threshold[0]}"
            )
        return self


class Canny(Annotator):
    """White edges, one pixel wide, on black: `cv2.Canny` of the RGB pixels, L1 gradient, 3x3 Sobel, no resampling."""

    name = "canny"
    version: ClassVar[str] = "1"
    options_model: ClassVar[type[Options]] = CannyOptions
    polarity: ClassVar[Polarity] = "white_on_black"
    flags: ClassVar[tuple[str, ...]] = ("empty",)
    options: CannyOptions

    @classmethod
    def columns(cls) -> list[pa.Field]:
        """The thresholds used, and whether there is no edge at all."""
        return [pa.field("low_threshold", pa.int32()), pa.field("high_threshold", pa.int32()), *super().columns()]

    def setup(self, device: str = "cpu") -> None:
        """One thread per image: the images are what is worked on in parallel."""
        del device
        cv2.setNumThreads(1)

    def annotate(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[Annotation]:
        """Edges of each image."""
        return [self._edges(image, key) for image, key in zip(images, keys, strict=True)]

    def _edges(self, image: Pixels, key: str) -> Annotation:
        low, high = self._thresholds(key)
        edges = as_pixels(cv2.Canny(image, low, high))
        return Annotation(edges, {"low_threshold": low, "high_threshold": high, "empty": not cv2.hasNonZero(edges)})

    def _thresholds(self, key: str) -> tuple[int, int]:
        """Drawn high first, so that the low one can stay under it: OpenCV would swap them silently."""
        high = draw_integer(*self.options.high_threshold, seed=self.seed, key=key, name="canny.high_threshold")
        lowest, highest = self.options.low_threshold
        low = draw_integer(lowest, min(highest, high), seed=self.seed, key=key, name="canny.low_threshold")
        return low, high
