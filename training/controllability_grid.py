"""The pictures of a measurement in one: a column per row with its hint, its stored image and what was generated."""

import numpy as np

from storage.stored_image import Pixels
from training.controllability_run import Measured, Rows
from training.metrics import SAMPLES
from training.pictures import grid_of


def grid(rows: Rows, measured: Measured) -> Pixels:
    """RGB (height, width, 3): hints (a line for each condition), stored images, generated images."""
    num_shown = len(measured.shown)
    hints = [
        [np.asarray((one * 255).round().byte().permute(1, 2, 0).numpy()) for one in hint[:num_shown]]
        for hint in rows.batch.hints
    ]
    stored = [picture.pixels for picture in rows.pictures[:num_shown]]
    return grid_of([*hints, stored, list(measured.shown)])


def grid_name(update: int) -> str:
    """Name of the grid of an update in the folder of its run."""
    return f"{SAMPLES}/{update:06d}.png"
