"""A drawn set in the manner of Fill50K: one coloured disc on a coloured background, with its prompt.

Fill50K is the tutorial set of the ControlNet repository (docs/train.md); here each picture is drawn from (seed, index).
"""

import numpy as np

COLORS = {
    "red": (230, 25, 25),
    "green": (25, 230, 25),
    "blue": (25, 25, 230),
    "yellow": (230, 230, 25),
    "magenta": (230, 25, 230),
    "cyan": (25, 230, 230),
    "white": (242, 242, 242),
    "black": (13, 13, 13),
}


def disc(seed: int, index: int, size: int = 512) -> tuple[np.ndarray, str]:
    """Picture `index` of the set `seed`: RGB uint8 of shape (size, size, 3), anti-aliased, and its prompt."""
    rng = np.random.default_rng([seed, index])
    fill, background = rng.choice(list(COLORS), size=2, replace=False)
    radius = rng.uniform(0.14, 0.33) * size
    margin = radius + 0.015 * size
    center_y, center_x = rng.uniform(margin, size - margin, size=2)
    y, x = np.ogrid[:size, :size]
    distance = np.hypot(y + 0.5 - center_y, x + 0.5 - center_x)
    cover = np.clip(radius - distance + 0.5, 0.0, 1.0)[..., None]
    pixels = cover * np.array(COLORS[fill]) + (1.0 - cover) * np.array(COLORS[background])
    return np.rint(pixels).astype(np.uint8), f"{fill} disc on a {background} background"
