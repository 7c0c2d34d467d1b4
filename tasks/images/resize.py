"""Resizing, padding and cropping of decoded pixels after a plan."""

from typing import Final

import cv2

from controlmill.config.image import Interpolation
from tasks.images.area import shrink
from tasks.images.plan import Plan
from tasks.images.types import Pixels, as_pixels

_OPENCV: Final[dict[Interpolation, int]] = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "bilinear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
    "lanczos4": cv2.INTER_LANCZOS4,
}


def resize(pixels: Pixels, plan: Plan, background: tuple[int, int, int]) -> Pixels:
    """Carry out `plan` on RGB pixels of shape (H, W, 3); they may have been decoded at a reduced size.

    The square of center_crop is cut out of the source before it is resized: that costs less than resizing what is
    thrown away, and the middle is met to half a source pixel instead of half a resized one.
    """
    if plan.square:
        side = min(pixels.shape[:2])
        pixels = _cut_middle(pixels, side, side)
    if plan.interpolation is not None and pixels.shape[:2] != (plan.height, plan.width):
        pixels = _interpolate(pixels, plan.width, plan.height, plan.interpolation)
    if plan.canvas is not None:
        pixels = _pad(pixels, plan.canvas, background)
    return _cut_middle(pixels, plan.final_width, plan.final_height)


def _interpolate(pixels: Pixels, width: int, height: int, interpolation: Interpolation) -> Pixels:
    shrinks = height <= pixels.shape[0] and width <= pixels.shape[1]
    # whole ratios have vector code in OpenCV
    whole = pixels.shape[0] % height == 0 and pixels.shape[1] % width == 0
    if interpolation == "area" and shrinks and not whole:
        return shrink(pixels, width, height)
    return as_pixels(cv2.resize(pixels, (width, height), interpolation=_OPENCV[interpolation]))


def _pad(pixels: Pixels, side: int, color: tuple[int, int, int]) -> Pixels:
    height, width = pixels.shape[:2]
    top, left = (side - height) // 2, (side - width) // 2
    bars = (top, side - height - top, left, side - width - left)
    return as_pixels(cv2.copyMakeBorder(pixels, *bars, cv2.BORDER_CONSTANT, value=color))


def _cut_middle(pixels: Pixels, width: int, height: int) -> Pixels:
    """The middle of the pixels, contiguous."""
    if pixels.shape[:2] == (height, width):
        return pixels
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width].copy()
