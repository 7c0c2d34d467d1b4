from collections.abc import Callable
from typing import Any

import numpy as np

from controlmill.testing.pictures import photo
from tasks.annotators.base import Annotation, Annotator

Ready = Callable[..., Annotator]


def annotated(annotator: Annotator, image: np.ndarray) -> Annotation:
    (made,) = annotator([image], ["0"])
    assert isinstance(made, Annotation), made
    return made


def test_largest_difference_to_controlnet_aux_is_zero(ready: Ready, theirs: Callable[[str], Any]) -> None:
    """Equal, line by line, measured with torch 2.12 on a CPU."""
    for seed in range(3):
        image = photo(192, 128, seed=seed)
        made = annotated(ready("mlsd"), image)
        same = theirs("MLSDdetector")(image, detect_resolution=128, image_resolution=128, output_type="np")
        assert (made.map == same[:, :, 0]).all()
        assert made.columns["num_lines"] > 20
        assert set(np.unique(made.map)) == {0, 255}


def test_no_line_is_flagged(ready: Ready) -> None:
    made = annotated(ready("mlsd", thr_v=1.0), photo(64, 64))
    assert made.columns == {"num_lines": 0, "empty": True}
    assert not made.map.any()


def test_there_may_be_fewer_places_than_lines(ready: Ready) -> None:
    made = annotated(ready("mlsd", thr_v=0.0), photo(16, 16))
    assert made.columns["num_lines"] <= 64
