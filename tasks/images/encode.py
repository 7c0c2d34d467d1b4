"""Pixels to the bytes that are stored."""

import cv2
import numpy as np
from numpy.typing import NDArray

from controlmill.config.image import ImageOptions
from tasks.images.types import Pixels, as_pixels

# Measured on Canny maps of photographs, 512x384: 8 bits, no row filter, run lengths 13.4 kB in 0.70 ms; OpenCV's
# default for PNG 17.2 kB in 0.80 ms; 1 bit 14.0 kB in 0.50 ms (level 1: 11.2 kB, 0.64 ms). One bit would save 0.2 ms or
# 2 kB at the cost of its readers: Pillow and `datasets` open it in mode "1", which np.array turns into booleans.
_BILEVEL = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
_NO_FILTER = (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE) if hasattr(cv2, "IMWRITE_PNG_FILTER") else ()


def encode(pixels: Pixels, options: ImageOptions) -> bytes:
    """Encode RGB pixels in the format and quality of the options; JPEG with chroma at half size, as img2dataset's.

    OpenCV and not simplejpeg, which uses the fast DCT under quality 96: as quick, 0.3 dB worse, and 1 % larger.

    Raises:
        ValueError: the encoder refuses the pixels.
    """
    settings = {
        "jpg": (
            cv2.IMWRITE_JPEG_QUALITY,
            options.quality,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
        ),
        "png": (cv2.IMWRITE_PNG_COMPRESSION, options.quality),
        "webp": (cv2.IMWRITE_WEBP_QUALITY, options.quality),
    }[options.encode_format]
    return _encode(as_pixels(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)), options.encode_format, settings)


def encode_map(pixels: NDArray[np.uint8]) -> bytes:
    """Encode a condition map, (H, W) or RGB (H, W, 3), as PNG without loss; decoders give back 8 bits a channel.

    Raises:
        ValueError: the encoder refuses the pixels.
    """
    if pixels.ndim == 3:
        return _encode(as_pixels(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)), "png", ())
    return _encode(pixels, "png", (*_BILEVEL, *_NO_FILTER) if _is_bilevel(pixels) else ())


def _is_bilevel(pixels: NDArray[np.uint8]) -> bool:
    # a threshold at 254 leaves 255 and nothing else
    return cv2.countNonZero(pixels) == cv2.countNonZero(cv2.threshold(pixels, 254, 255, cv2.THRESH_BINARY)[1])


def _encode(pixels: NDArray[np.uint8], extension: str, settings: tuple[int, ...]) -> bytes:
    encoded, data = cv2.imencode(f".{extension}", pixels, settings)
    if not encoded:
        raise ValueError(f"cannot encode pixels of shape {pixels.shape} as {extension}")
    return data.tobytes()
