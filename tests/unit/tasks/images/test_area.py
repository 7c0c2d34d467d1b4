import cv2
import numpy as np
import pytest

from controlmill.testing.pictures import photo
from tasks.images.area import shrink


def _decibels(ours: np.ndarray, theirs: np.ndarray) -> float:
    squared = np.mean((ours.astype(float) - theirs) ** 2)
    return float(10 * np.log10(255**2 / squared)) if squared else np.inf


@pytest.mark.parametrize(
    ("source", "target", "max_difference"),
    [
        ((640, 480), (512, 384), 1),  # 5:4
        ((800, 600), (512, 384), 1),  # 25:16, windows over three rows
        ((1000, 750), (512, 384), 1),  # 125:64, as many phases as are done one by one
        ((1280, 960), (512, 384), 1),  # 5:2, windows over four rows
        ((700, 523), (512, 383), 3),  # 175:128 and 523:383, by classes of phases
        ((513, 511), (512, 510), 3),
        ((640, 480), (640, 384), 1),  # one axis only
        ((640, 480), (512, 480), 1),
    ],
)
def test_is_opencvs_area_filter(source: tuple[int, int], target: tuple[int, int], max_difference: int) -> None:
    pixels = photo(*source)
    expected = cv2.resize(pixels, target, interpolation=cv2.INTER_AREA)
    shrunk = shrink(pixels, *target)
    assert shrunk.shape == expected.shape
    assert shrunk.dtype == np.uint8
    assert np.abs(shrunk.astype(int) - expected).max() <= max_difference
    assert _decibels(shrunk, expected) > 52


def test_hard_edges_come_out_as_from_opencv() -> None:
    stripes = np.zeros((640, 640, 3), np.uint8)
    stripes[:, ::3] = stripes[::5] = 255
    expected = cv2.resize(stripes, (512, 512), interpolation=cv2.INTER_AREA)
    assert np.abs(shrink(stripes, 512, 512).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
@pytest.mark.parametrize("side", [511, 513, 640, 1000])
def test_a_flat_picture_stays_flat(value: int, side: int) -> None:
    flat = np.full((side, side, 3), value, np.uint8)
    assert (shrink(flat, 509, 509) == value).all()


def test_does_not_change_its_input() -> None:
    pixels = photo(640, 480)
    before = pixels.copy()
    shrink(pixels, 512, 384)
    assert (pixels == before).all()
