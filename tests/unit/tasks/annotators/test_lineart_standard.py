from collections.abc import Callable
from typing import Any

import numpy as np

from controlmill.testing.pictures import photo
from tasks.annotators.base import Annotation
from tasks.annotators.registry import create


def annotated(image: np.ndarray, **options: float) -> Annotation:
    (made,) = create("lineart_standard", options)([image], ["0"])
    assert isinstance(made, Annotation)
    return made


def test_largest_difference_to_controlnet_aux_is_zero(theirs: Callable[[str], Any]) -> None:
    """Equal; the same OpenCV makes both."""
    image = photo(192, 128)
    for sigma, threshold in ((6.0, 8.0), (2.0, 30.0)):
        same = theirs("LineartStandardDetector")(
            image, guassian_sigma=sigma, intensity_threshold=threshold, detect_resolution=128, output_type="np"
        )
        ours = annotated(image, gaussian_sigma=sigma, intensity_threshold=threshold)
        assert (ours.map == same[:, :, 0]).all()


def test_a_dark_line_on_paper_is_white_on_black() -> None:
    image = np.full((64, 64, 3), 240, np.uint8)
    image[:, 32] = 20
    made = annotated(image)
    assert (made.map[:, 32] > 120).all()
    assert made.map[:, :10].max() == 0
    assert made.columns == {"empty": False}


def test_paper_without_a_line_is_flagged() -> None:
    made = annotated(np.full((64, 64, 3), 240, np.uint8))
    assert made.columns == {"empty": True}
    assert not made.map.any()
