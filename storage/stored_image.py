"""Pixels of what a dataset stores: images as JPEG, PNG or WebP, condition maps as PNG."""

from typing import Final, TypeAlias

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]

_JPEG: Final = b"\xff\xd8\xff"
_COLORSPACES: Final = frozenset({"Gray", "YCbCr", "RGB"})
# libjpeg says this of padding before the last marker, after every pixel has been read
_HARMLESS: Final = "extraneous bytes before marker 0xd9"


def decode_stored(encoded: bytes) -> Pixels:
    """Pixels of an image that controlmill stored, RGB uint8 (height, width, 3).

    Raises:
        ValueError: these bytes are not such an image.
    """
    if encoded.startswith(_JPEG) and _is_simple(encoded):
        return _decode_jpeg(encoded)
    return _decode(encoded, cv2.IMREAD_COLOR_RGB)


def decode_map(encoded: bytes) -> Pixels:
    """Pixels of a condition map that controlmill stored, uint8 (height, width), or RGB (height, width, 3).

    Raises:
        ValueError: these bytes are not such a map.
    """
    pixels = _decode(encoded, cv2.IMREAD_UNCHANGED)
    if pixels.dtype != np.uint8 or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise ValueError(f"not a stored map: {pixels.dtype} of shape {pixels.shape}")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8) if pixels.ndim == 3 else pixels


def _decode(encoded: bytes, flag: int) -> Pixels:
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flag) if encoded else None
    if pixels is None:
        raise ValueError(f"not a stored image: {len(encoded)} bytes that begin with {encoded[:16]!r}")
    return pixels  # type: ignore[return-value]


def _is_simple(encoded: bytes) -> bool:
    """Whether TurboJPEG reads it: grey or three channels, sampled as it knows it."""
    try:
        return simplejpeg.decode_jpeg_header(encoded, strict=False)[2] in _COLORSPACES
    except ValueError:
        return False


def _decode_jpeg(encoded: bytes) -> Pixels:
    """Decode in full; ValueError where the data ends early, which libjpeg would fill with grey and only warn of."""
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(encoded, colorspace="RGB")
    except ValueError as error:
        if _HARMLESS not in str(error):
            raise
        pixels = simplejpeg.decode_jpeg(encoded, colorspace="RGB", strict=False)
    return pixels
