"""JPEG: what its markers say, and decoding at a reduced size inside the DCT.

Marker layout: ITU-T T.81, annex B. EXIF in APP1 (Exif 2.32, 4.7.2), ICC profiles in pieces in APP2 (ICC.1:2010, B.4).
"""

from dataclasses import dataclass
from typing import Final

import simplejpeg

from tasks.images.types import Pixels

_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_START_OF_SCAN: Final = 0xDA
_END_OF_IMAGE: Final = 0xD9
# Half, quarter and eighth have vector code in libjpeg-turbo; 3/8, 5/8, 6/8 and 7/8 have none and cost more than they
# save: 1600x1200 takes 8.9 ms at 6/8, 4.2 ms at 1/2, 5.3 ms in full.
_FACTORS: Final = (8, 4, 2)
# libjpeg says this of padding before the last marker, after every pixel has been read
_HARMLESS: Final = "extraneous bytes before marker 0xd9"


class JpegError(ValueError):
    """The markers of a JPEG file do not fit together, or its data ends early."""


@dataclass(frozen=True, slots=True)
class Markers:
    """What the markers before the first scan say."""

    width: int
    height: int
    num_channels: int
    bits: int
    exif: bytes | None
    profile: bytes | None
    """ICC profile."""
    adobe: bool
    """Written by Adobe's rules: CMYK is stored inverted."""


def read_markers(data: bytes) -> Markers:
    """Read the markers up to the first scan; no pixel is decoded.

    Raises:
        JpegError: a marker is not where it must be, or there is no frame.
    """
    exif: bytes | None = None
    profile: dict[int, bytes] = {}
    adobe = False
    frame: tuple[int, int, int, int] | None = None
    at = 2
    while True:
        marker, start, end = _segment(data, at)
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            break
        if marker == 0xE1 and exif is None and data.startswith(b"Exif\x00\x00", start):
            exif = data[start + 6 : end]
        elif marker == 0xE2 and data.startswith(b"ICC_PROFILE\x00", start) and end - start > 14:
            profile[data[start + 12]] = data[start + 14 : end]
        elif marker == 0xEE:
            adobe = data.startswith(b"Adobe", start)
        elif marker in _FRAMES and end - start >= 6:
            size = (int.from_bytes(data[start + 1 : start + 3]), int.from_bytes(data[start + 3 : start + 5]))
            frame = (*size, data[start + 5], data[start])
        at = end
    if frame is None or 0 in frame:
        raise JpegError("no frame header with a size before the pixels")
    icc = b"".join(profile[number] for number in sorted(profile)) or None
    return Markers(frame[1], frame[0], frame[2], frame[3], exif, icc, adobe)


def _segment(data: bytes, at: int) -> tuple[int, int, int]:
    """Marker, start and end of the payload of the segment at or after `at`."""
    if data[at : at + 1] != b"\xff":
        at = data.find(b"\xff", at)
    while 0 <= at < len(data) - 1 and data[at + 1] == 0xFF:
        at += 1
    if at < 0 or at + 1 >= len(data):
        raise JpegError("the file ends before the pixels")
    marker = data[at + 1]
    if marker == 0x00 or marker in _ALONE:
        return marker, at + 2, at + 2
    length = int.from_bytes(data[at + 2 : at + 4])
    if marker == _END_OF_IMAGE:
        return marker, at + 2, at + 2
    if length < 2 or at + 2 + length > len(data):
        raise JpegError("the file ends before the pixels")
    return marker, at + 4, at + 2 + length


def dct_factor(width: int, height: int, needed: tuple[int, int]) -> int:
    """The largest of 8, 4, 2, 1 by which the picture may be divided without falling under `needed` (width, height)."""
    for factor in _FACTORS:
        if -(-width // factor) >= needed[0] and -(-height // factor) >= needed[1]:
            return factor
    return 1


def decode_jpeg(data: bytes, width: int, height: int, factor: int) -> Pixels:
    """Decode a grey or three-channel JPEG of (width, height), divided by `factor` inside the DCT.

    Neither the fast DCT nor the fast chroma upsampling is used: 4 % less time for 45 and 43 dB is a poor trade.

    Raises:
        JpegError: the data ends early or is damaged. libjpeg would fill the rest with grey and only warn.
    """
    size = {"min_height": -(-height // factor), "min_width": -(-width // factor)} if factor > 1 else {}
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", **size)
    except ValueError as error:
        if _HARMLESS not in str(error):
            raise JpegError(str(error)) from error
        pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=False, **size)
    return pixels
