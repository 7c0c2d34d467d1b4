from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from controlmill.reasons import RowFailure
from controlmill.testing.pictures import photo
from tasks.annotators.base import Annotation, Annotator
from tasks.annotators.midas import normals

Ready = Callable[..., Annotator]


def annotated(annotator: Annotator, image: np.ndarray) -> Annotation:
    (made,) = annotator([image], ["0"])
    assert isinstance(made, Annotation), made
    return made


@pytest.fixture(scope="module")
def pair(ready: Ready, theirs: Callable[[str], Any]) -> tuple[np.ndarray, np.ndarray]:
    """What controlnet_aux makes of the photograph: depth and normals."""
    ready("midas")
    depth, normal = theirs("MidasDetector")(
        photo(192, 128), detect_resolution=128, image_resolution=128, depth_and_normal=True
    )
    return depth[:, :, 0], normal


def test_largest_difference_of_depth_to_controlnet_aux_is_zero(
    ready: Ready, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    """Equal, measured with torch 2.12 on a CPU; one level is allowed for other kernels."""
    made = annotated(ready("midas"), photo(192, 128))
    assert np.abs(made.map.astype(int) - pair[0]).max() <= 1
    assert len(np.unique(made.map)) > 100


def test_largest_difference_of_normals_to_controlnet_aux_is_zero(
    ready: Ready, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    """Equal, measured with torch 2.12 on a CPU; one level is allowed for other kernels."""
    made = annotated(ready("normal_midas"), photo(192, 128))
    assert np.abs(made.map.astype(int) - pair[1]).max() <= 1
    assert made.columns == {"flat": False}


def test_the_depth_itself_is_kept_in_half_precision(ready: Ready) -> None:
    made = annotated(ready("midas"), photo(100, 37))
    depth = np.frombuffer(made.columns["depth"], "<f2").reshape(37, 100).astype(np.float64)
    near, far = made.columns["near"], made.columns["far"]
    assert np.isclose(depth.max(), near, rtol=1e-3)
    assert np.isclose(depth.min(), far, rtol=1e-3)
    assert np.abs((depth - far) / (near - far) * 255 - made.map).max() < 1.2
    assert annotated(ready("midas", raw_depth=False), photo(64, 64)).columns["depth"] is None


def test_flat_depth_is_black_and_flagged_and_never_nan(ready: Ready) -> None:
    midas, last = ready("midas"), ready("midas").network.scratch.output_conv[4]  # type: ignore[attr-defined]
    normal = ready("normal_midas")
    other = normal.network.scratch.output_conv[4]  # type: ignore[attr-defined]
    before = last.weight.clone()
    try:
        last.weight.zero_()
        other.weight.zero_()
        made, normal_made = annotated(midas, photo(64, 64)), annotated(normal, photo(64, 64))
    finally:
        last.weight.copy_(before)
        other.weight.copy_(before)
    assert made.columns["flat"] is True
    assert not made.map.any()
    assert normal_made.columns == {"flat": True}
    assert (normal_made.map == (255, 127, 127)).all()


def test_depth_that_is_not_finite_is_a_failure(ready: Ready) -> None:
    midas = ready("midas")
    bias = midas.network.scratch.output_conv[4].bias  # type: ignore[attr-defined]
    before = bias.clone()
    try:
        bias.fill_(float("inf"))
        (made,) = midas([photo(64, 64)], ["0"])
    finally:
        bias.copy_(before)
    assert isinstance(made, RowFailure)
    assert "not finite" in made.message


def test_a_slope_leans_and_the_background_does_not() -> None:
    depth = np.tile(np.arange(64, dtype=np.float32), (32, 1))
    made = normals(depth, depth / 63, strength=8.0, threshold=0.5)
    assert (made[:, :30] == (255, 127, 127)).all()
    # Sobel of a slope of one is eight: as long across as towards the viewer
    middle = made[16, 48].astype(int)
    assert (np.abs(middle - (217, 127, 217)) <= 1).all()
