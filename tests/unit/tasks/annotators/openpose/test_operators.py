import tracemalloc
import warnings

import cv2
import numpy as np
import pytest

from tasks.annotators.openpose.operators import enlarging, enlarging_smoothly, resizing, smoothing


def test_smoothing_is_scipys_gaussian() -> None:
    from scipy.ndimage import gaussian_filter

    values = np.random.default_rng(0).normal(size=(37, 50))
    ours = smoothing(37, 3.0) @ values @ smoothing(50, 3.0).T
    assert np.abs(ours - gaussian_filter(values, sigma=3)).max() < 1e-12


def test_smoothing_of_less_than_its_radius_is_mirrored_as_often_as_needed() -> None:
    from scipy.ndimage import gaussian_filter1d

    values = np.random.default_rng(0).normal(size=5)
    assert np.abs(smoothing(5, 3.0) @ values - gaussian_filter1d(values, 3)).max() < 1e-12


@pytest.mark.parametrize(("num_cells", "num_pixels", "area"), [(23, 184, False), (184, 512, False), (184, 96, True)])
def test_resizing_is_opencvs(num_cells: int, num_pixels: int, *, area: bool) -> None:
    values = np.random.default_rng(0).normal(size=(num_cells, num_cells)).astype(np.float32)
    matrix = resizing(num_cells, num_pixels, area=area)
    how = cv2.INTER_AREA if area else cv2.INTER_LANCZOS4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs = cv2.resize(values, (num_pixels, num_pixels), interpolation=how)
    assert np.abs(matrix @ values @ matrix.T - theirs).max() < 2e-5


def test_what_is_padding_is_cut_off_before_the_second_step() -> None:
    matrix = enlarging(4, 30, 64, stride=8, area=False)
    assert matrix.shape == (64, 4)
    assert np.allclose(matrix.sum(axis=1), 1, atol=1e-4)
    smooth = enlarging_smoothly(4, 30, 64, stride=8, area=False, sigma=3.0)
    assert np.allclose(smooth, smoothing(64, 3.0) @ matrix)


def test_images_of_many_sizes_do_not_fill_the_memory() -> None:
    """A dense matrix of the image's size squared is 5 MiB, and a dataset has as many sizes as it likes."""
    tracemalloc.start()
    try:
        for height in range(700, 760):
            enlarging_smoothly(23, 184, height, stride=8, area=False, sigma=3.0)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 16 * 2**20
