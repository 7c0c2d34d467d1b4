"""The whole way of one picture: downloaded bytes in, stored bytes and their pixels out, or the reason why not."""

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Final

import cv2

from controlmill.config.image import ImageOptions
from controlmill.reasons import RowFailure
from tasks.images.color import convert
from tasks.images.decode import Decoded, decode
from tasks.images.encode import encode
from tasks.images.plan import Plan, plan_resize
from tasks.images.resize import resize
from tasks.images.types import Pixels

# malloc.h of glibc
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image ready to be stored."""

    pixels: Pixels
    """RGB uint8 (height, width, 3), before encoding."""
    encoded: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    """Size of the downloaded picture, upright."""
    exif: str | None
    """Its EXIF tags as JSON, None where they are not wanted."""


@cache
def set_up() -> None:
    """Set up this process for `prepare`, which does it itself at its first call; again it does nothing.

    OpenCV would start a thread per core in every worker, which costs more than it gives on small pictures. glibc would
    give the memory of a picture back to the kernel and fault it in again for the next one: up to 1,000 page faults, and
    1.7 ms of 3.8, per 640x480 JPEG; kept, it costs at most 64 MiB a thread.
    """
    cv2.setNumThreads(1)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * _MIB)
        mallopt(_M_TRIM_THRESHOLD, 64 * _MIB)


def prepare(data: bytes, options: ImageOptions) -> Prepared | RowFailure:
    """Decode, turn upright, convert to sRGB, resize and encode; thread-safe, and out of the GIL where it is slow."""
    set_up()
    decoded = decode(data, options)
    if isinstance(decoded, RowFailure):
        return decoded
    plan = plan_resize(decoded.original_width, decoded.original_height, options)
    if isinstance(plan, RowFailure):
        return plan
    pixels = resize(decoded.pixels, plan, options.background_color)
    if decoded.transform is not None:
        pixels = convert(pixels, decoded.transform)
    return Prepared(
        pixels=pixels,
        encoded=data if _keeps(decoded, plan, options) else encode(pixels, options),
        width=plan.final_width,
        height=plan.final_height,
        original_width=decoded.original_width,
        original_height=decoded.original_height,
        exif=decoded.exif,
    )


def _keeps(decoded: Decoded, plan: Plan, options: ImageOptions) -> bool:
    """Whether the downloaded bytes are stored as they are."""
    return (
        options.skip_reencode
        and decoded.plain
        and decoded.format == options.encode_format
        and (plan.final_width, plan.final_height) == (decoded.original_width, decoded.original_height)
    )
