"""Embedded ICC profiles, converted to sRGB: wide-gamut photographs look washed out where their profile is dropped."""

from functools import cache, lru_cache
from io import BytesIO
from typing import Final

import numpy as np
from PIL import Image, ImageCms

from tasks.images.types import Pixels

_SPACES: Final = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}
# the many files called sRGB differ in the last bit of their curves
_MAX_SRGB_DIFFERENCE: Final = 2


@lru_cache(maxsize=64)
def srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from `profile` to sRGB for images of Pillow `mode`, None where none is needed or possible.

    None is needed where the profile turns no colour by more than 2 of 255. None is possible where the profile is
    damaged or meant for another colour space than the pixels; viewers ignore such profiles too.
    """
    if mode not in _SPACES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if source.profile.xcolor_space != _SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            # without the one-pixel cache, one transform serves all threads
            ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE,
        )
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    return transform if mode == "CMYK" or _changes_colors(transform, mode) else None


def convert(pixels: Pixels, transform: ImageCms.ImageCmsTransform) -> Pixels:
    """RGB pixels in the transform's source profile to sRGB."""
    return np.array(apply(Image.fromarray(pixels), transform))


def apply(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    """A Pillow image of the transform's source mode to one of mode RGB in sRGB."""
    converted = ImageCms.applyTransform(image, transform)
    if converted is None:
        raise ValueError("the colour profile gave no image")
    return converted


def _changes_colors(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    probe = _probe(mode)
    expected = probe if mode == "RGB" else np.repeat(probe[..., None], 3, axis=2)
    changed = np.array(apply(Image.fromarray(probe), transform))
    return bool(np.abs(changed.astype(int) - expected).max() > _MAX_SRGB_DIFFERENCE)


@cache
def _probe(mode: str) -> Pixels:
    """Every grey level, or every combination of nine levels per channel, as an image of one row."""
    if mode == "L":
        return np.arange(256, dtype=np.uint8)[None]
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
