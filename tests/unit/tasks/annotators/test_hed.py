from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from controlmill.testing.pictures import photo
from tasks.annotators.base import Annotation, Annotator
from tasks.annotators.hed import scribble, stroke

Ready = Callable[..., Annotator]


def annotated(annotator: Annotator, image: np.ndarray) -> Annotation:
    (made,) = annotator([image], ["0"])
    assert isinstance(made, Annotation), made
    return made


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("drawn", [False, True])
def test_largest_difference_to_controlnet_aux_is_zero(
    ready: Ready, theirs: Callable[[str], Any], *, safe: bool, drawn: bool
) -> None:
    """All four maps are equal, measured with torch 2.12 on a CPU; one level is allowed for other kernels."""
    image = photo(192, 128)
    ours = annotated(ready("hed", safe=safe, scribble=drawn), image).map
    same = theirs("HEDdetector")(
        image, detect_resolution=128, image_resolution=128, output_type="np", safe=safe, scribble=drawn
    )
    assert np.abs(ours.astype(int) - same.reshape(*ours.shape, -1)[:, :, 0]).max() <= 1
    assert 20 < ours.mean() < 235


def test_safe_maps_have_three_levels(ready: Ready) -> None:
    levels = set(np.unique(annotated(ready("hed", safe=True), photo(192, 128)).map))
    assert levels == {0, 127, 255}


def test_scribbles_are_bilevel(ready: Ready) -> None:
    assert set(np.unique(annotated(ready("hed", scribble=True), photo(192, 128)).map)) == {0, 255}


def test_a_faint_map_is_flagged_empty(ready: Ready) -> None:
    hed = ready("hed")
    assert annotated(hed, photo(64, 64)).columns == {"empty": False}
    biases = [block.projection.bias for block in hed.network.children()]  # type: ignore[attr-defined]
    before = [bias.clone() for bias in biases]
    try:
        for bias in biases:
            bias.fill_(-20)
        made = annotated(hed, photo(64, 64))
    finally:
        for bias, value in zip(biases, before, strict=True):
            bias.copy_(value)
    assert made.columns == {"empty": True}
    assert made.map.max() < 64


def test_a_ridge_becomes_one_wide_stroke() -> None:
    soft = np.zeros((64, 96), np.uint8)
    soft[:, 40:52] = 255
    strokes = scribble(soft)
    row = strokes[32]
    assert set(np.unique(row)) == {0, 255}
    changes = np.flatnonzero(np.diff(row.astype(int)))
    assert len(changes) == 2
    assert 10 <= changes[1] - changes[0] <= 26
    assert changes[0] < 46 < changes[1]
    assert not scribble(np.zeros((64, 96), np.uint8)).any()


def test_a_line_is_drawn_out_to_both_sides_alike() -> None:
    line = np.zeros((41, 41), np.uint8)
    line[:, 20] = 255
    drawn = stroke(line)
    assert (drawn == drawn[:, ::-1]).all()
    assert 10 <= (drawn[20] == 255).sum() <= 20
