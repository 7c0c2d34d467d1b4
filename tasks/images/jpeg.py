"""JPEG: what its markers say, and decoding at a reduced size inside the DCT.

Marker layout: ITU-T T.81, annex B. EXIF in APP1 (Exif 2.32, 4.7.2), ICC profiles in pieces in APP2 (ICC.1:2010, B.4).
"""

import struct
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
_SAMPLINGS: Final = frozenset(bytes((luma, 0x11, 0x11)) for luma in (0x11, 0x21, 0x12, 0x22, 0x41))
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
    sampling: bytes
    """Sampling factors of each channel, horizontal in the upper four bits."""
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
    frame = b""
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
        elif marker in _FRAMES:
            frame = data[start:end]
        at = end
    if len(frame) < 6 or len(frame) != 6 + 3 * frame[5]:
        raise JpegError("no frame header before the pixels")
    bits, height, width, num_channels = struct.unpack_from(">BHHB", frame)
    icc = b"".join(profile[number] for number in sorted(profile)) or None
    return Markers(width, height, num_channels, bits, frame[7::3], exif, icc, adobe)


def is_simple(markers: Markers) -> bool:
    """Whether `decode_jpeg` reads it: 8 bits, grey or three channels, sampled as TurboJPEG knows it."""
    if markers.bits != 8 or markers.num_channels not in (1, 3):
        return False
    return markers.num_channels == 1 or markers.sampling in _SAMPLINGS


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


def decode_jpeg(data: bytes, size: tuple[int, int], factor: int = 1) -> Pixels:
    """Decode a simple JPEG of `size` (width, height), divided by `factor` inside the DCT and rounded up.

    Neither the fast DCT nor the fast chroma upsampling is used: 4 % less time for 45 and 43 dB is a poor trade.

    Raises:
        JpegError: the data ends early or is damaged. libjpeg would fill the rest with grey and only warn.
    """
    least = {"min_width": -(-size[0] // factor), "min_height": -(-size[1] // factor)}
    try:
        # two readers of one header: a size that only libjpeg sees would pass by the limits
        if simplejpeg.decode_jpeg_header(data, strict=False)[1::-1] != size:
            raise JpegError(f"the markers of the frame of {size[0]}x{size[1]} are ambiguous")
        pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", **least)
    except ValueError as error:
        if _HARMLESS not in str(error):
            raise JpegError(str(error)) from error
        pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=False, **least)
    return pixels
