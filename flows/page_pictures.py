"""Pictures inside of a page: Prefect keeps no files, and its pages should stay small."""

import base64

import cv2
import numpy as np

_MAX_WIDTH, _QUALITY = 1200, 85


def as_jpeg(alternative: str, encoded: bytes) -> str:
    """A line of Markdown with a picture as JPEG, at most 1200 pixels wide; empty where the bytes are no picture."""
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
    if pixels is None:
        return ""
    height, width = pixels.shape[:2]
    if width > _MAX_WIDTH:
        size = (_MAX_WIDTH, max(1, round(height * _MAX_WIDTH / width)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    made = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
    return f"![{alternative}](data:image/jpeg;base64,{base64.b64encode(made).decode()})"
