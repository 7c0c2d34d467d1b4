"""What is cut out of a stored image: resized until it covers the target, cropped, mirrored; hint and latents alike.

Sizes are (width, height) in pixels. Crops begin at multiples of 8 pixels, so that they are whole latents.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from controlmill.config.training_data import PIXELS_PER_LATENT, GeometryOptions
from storage.stored_image import Pixels
from training import draws

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of images of one size."""

    resized: Size
    """At least as wide and as high as the target, one side equal."""
    target: Size


@dataclass(frozen=True, slots=True)
class View:
    """What one visit sees of an image."""

    resized: Size
    target: Size
    left: int
    top: int
    """Corner of the crop, in pixels of the resized image."""
    flipped: bool


def bucket_sizes(options: GeometryOptions) -> tuple[Size, ...]:
    """The sizes that images may be cut to, sorted; the square of `resolution` alone without buckets.

    The rule is kohya's: every width in steps, with the greatest height that stays within the area.
    """
    square = (options.resolution, options.resolution)
    if not options.enable_bucket:
        return (square,)
    step = options.bucket_reso_steps
    sizes = {square} if options.resolution % step == 0 else set()
    first = -(-options.min_bucket_reso // step) * step
    for side in range(first, options.max_bucket_reso + 1, step):
        other = min(options.max_bucket_reso, options.resolution**2 // side) // step * step
        if other >= options.min_bucket_reso:
            sizes |= {(side, other), (other, side)}
    return tuple(sorted(sizes)) or (square,)


@lru_cache(maxsize=65_536)
def plan_of(width: int, height: int, buckets: tuple[Size, ...]) -> Plan:
    """The bucket whose aspect ratio is nearest, and the size at which the image covers it."""
    aspect = math.log(width / height)
    target = min(buckets, key=lambda size: (abs(math.log(size[0] / size[1]) - aspect), -size[0] * size[1], size))
    scale = max(target[0] / width, target[1] / height)
    return Plan((max(target[0], round(width * scale)), max(target[1], round(height * scale))), target)


def view_of(plan: Plan, options: GeometryOptions, seed: int, epoch: int, key: str) -> View:
    """What the visit of row `key` in `epoch` sees."""
    free = (plan.resized[0] - plan.target[0], plan.resized[1] - plan.target[1])
    if options.center_crop:
        corner = (free[0] // 2, free[1] // 2)
    else:
        corner = tuple(
            PIXELS_PER_LATENT * draws.integer(seed, epoch, key, f"crop {axis}", 0, room // PIXELS_PER_LATENT + 1)
            for axis, room in zip("xy", free, strict=True)
        )  # type: ignore[assignment]  # mypy does not see that there are two
    flipped = options.random_flip and draws.fraction(seed, epoch, key, "flip") < 0.5
    return View(plan.resized, plan.target, *corner, flipped)


def center_view(plan: Plan, step: int = 1) -> View:
    """The middle, not mirrored; its corner a multiple of `step` pixels."""
    left, top = ((whole - part) // 2 // step * step for whole, part in zip(plan.resized, plan.target, strict=True))
    return View(plan.resized, plan.target, left, top, flipped=False)


def buckets_of(sizes: NDArray[np.int32], buckets: tuple[Size, ...]) -> NDArray[np.int32]:
    """Number of the bucket of each (width, height)."""
    unique, inverse = np.unique(sizes, axis=0, return_inverse=True)
    of_size = [buckets.index(plan_of(int(width), int(height), buckets).target) for width, height in unique]
    return np.array(of_size, np.int32)[inverse.reshape(-1)]


def resize(pixels: Pixels, size: Size, *, nearest: bool = False) -> Pixels:
    """Pixels (height, width, ...) at another size; `nearest` for values between which there is nothing."""
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    shrinks = size[0] < pixels.shape[1] or size[1] < pixels.shape[0]
    how = cv2.INTER_NEAREST_EXACT if nearest else cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, size, interpolation=how), dtype=np.uint8)


def cut(pixels: Pixels, view: View, *, nearest: bool = False) -> Pixels:
    """Pixels (height, width, ...) as `view` sees them; a view of the given array where nothing is resized."""
    resized = resize(pixels, view.resized, nearest=nearest)
    seen = resized[view.top : view.top + view.target[1], view.left : view.left + view.target[0]]
    return seen[:, ::-1] if view.flipped else seen
