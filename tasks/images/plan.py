"""The geometry of one picture, from its size alone: what is cut, how large it becomes, what is cut then.

Modes and their meaning are img2dataset's (its README, "API"); the crop to `size_multiple` at the end is ours.
"""

from dataclasses import dataclass
from typing import Final

from controlmill.config.image import ImageOptions, Interpolation
from controlmill.reasons import Reason, RowFailure

# what the encoders take: JPEG's libjpeg (65,500), WebP's 14 bits, libpng's default
_MAX_SIDES: Final = {"jpg": 65_500, "webp": 16_383, "png": 1_000_000}


@dataclass(frozen=True, slots=True)
class Plan:
    """In this order: cut a square from the middle, resize, pad to a square, cut from the middle."""

    square: bool
    """Cut the largest square out of the source first."""
    width: int
    height: int
    """Size after resizing."""
    interpolation: Interpolation | None
    """None where nothing is resized."""
    canvas: int | None
    """Side of the square that it is padded to."""
    final_width: int
    final_height: int

    @property
    def smooth(self) -> bool:
        """Whether the source may be decoded at a reduced size: every interpolation but the nearest pixel averages."""
        return self.interpolation not in (None, "nearest")


def plan_resize(width: int, height: int, options: ImageOptions) -> Plan | RowFailure:
    """Plan for an upright picture of this size."""
    size, mode = options.image_size, options.resize_mode
    side = max(width, height) if mode in ("border", "keep_ratio_largest") else min(width, height)
    shrinks = side > size
    if mode == "no" or (options.resize_only_if_bigger and not shrinks):
        return _finish(Plan(False, width, height, None, None, width, height), options)
    new_width, new_height = (max(1, round(length * size / side)) for length in (width, height))
    square = mode == "center_crop"
    if square:
        new_width = new_height = size
    canvas = size if mode == "border" else None
    interpolation = options.downscale_interpolation if shrinks else options.upscale_interpolation
    unchanged = side == size
    final = (canvas or new_width, canvas or new_height)
    return _finish(Plan(square, new_width, new_height, None if unchanged else interpolation, canvas, *final), options)


def _finish(plan: Plan, options: ImageOptions) -> Plan | RowFailure:
    """Cut to the size multiple, unless nothing is to be resized; refuse what cannot be stored."""
    multiple = 1 if options.resize_mode == "no" else options.size_multiple
    final_width, final_height = (length // multiple * multiple for length in (plan.final_width, plan.final_height))
    size = f"{plan.final_width}x{plan.final_height}"
    if not final_width or not final_height:
        return RowFailure(Reason.TOO_SMALL, f"{size} after resizing is smaller than size_multiple {multiple}")
    # a strip of 20x100000 would become 512x2560000
    if plan.width * plan.height > options.max_source_pixels:
        return RowFailure(
            Reason.TOO_MANY_PIXELS, f"{size} after resizing is more than max_source_pixels {options.max_source_pixels}"
        )
    limit = _MAX_SIDES[options.encode_format]
    if max(final_width, final_height) > limit:
        return RowFailure(
            Reason.TOO_MANY_PIXELS, f"{size}: {options.encode_format} holds at most {limit} pixels a side"
        )
    return Plan(plan.square, plan.width, plan.height, plan.interpolation, plan.canvas, final_width, final_height)
