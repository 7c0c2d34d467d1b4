"""Pictures of what a ControlNet is given and makes: from networks' numbers to RGB, side by side, as PNG."""

import cv2
import numpy as np
import torch
from torch import Tensor

from controlmill.errors import StorageWriteError
from storage.stored_image import Pixels

_GAP = 4


def as_pixels(image_CHW: Tensor) -> Pixels:
    """RGB uint8 (H, W, 3) of pixels (3, H, W) in [-1, 1], on the CPU."""
    return ((image_CHW + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def grid_of(rows: list[list[Pixels]]) -> Pixels:
    """All pictures on white, one row each, cells as large as the largest."""
    height = max(cell.shape[0] for row in rows for cell in row) + _GAP
    width = max(cell.shape[1] for row in rows for cell in row) + _GAP
    canvas = np.full((height * len(rows) + _GAP, width * max(map(len, rows)) + _GAP, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            top, left = y * height + _GAP, x * width + _GAP
            canvas[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return canvas


def as_png(pixels: Pixels) -> bytes:
    """A picture as PNG."""
    done, encoded = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    if not done:
        raise StorageWriteError(f"a picture of {pixels.shape[1]} x {pixels.shape[0]} pixels cannot be encoded")
    return encoded.tobytes()
