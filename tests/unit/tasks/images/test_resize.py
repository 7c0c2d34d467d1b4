import cv2
import numpy as np
import pytest

from controlmill.config.image import ImageOptions
from controlmill.testing.pictures import photo
from tasks.images.plan import Plan, plan_resize
from tasks.images.resize import resize


def resized(pixels: np.ndarray, **options: object) -> np.ndarray:
    settings = ImageOptions(**options)
    plan = plan_resize(pixels.shape[1], pixels.shape[0], settings)
    assert isinstance(plan, Plan)
    return resize(pixels, plan, settings.background_color)


@pytest.mark.parametrize("name", ["nearest", "linear", "bilinear", "cubic", "bicubic", "area", "lanczos", "lanczos4"])
def test_interpolations_are_opencvs(name: str) -> None:
    flag = {"linear": 1, "bilinear": 1, "cubic": 2, "bicubic": 2, "area": 3, "lanczos": 4, "lanczos4": 4}.get(name, 0)
    larger, smaller = photo(640, 480), photo(400, 300)
    options = {"resize_mode": "keep_ratio_largest", "downscale_interpolation": name, "upscale_interpolation": name}
    shrunk = resized(larger, **options).astype(int) - cv2.resize(larger, (512, 384), interpolation=flag)
    assert np.abs(shrunk).max() <= (1 if name == "area" else 0)
    assert (resized(smaller, **options) == cv2.resize(smaller, (512, 384), interpolation=flag)).all()


def test_the_middle_is_kept() -> None:
    pixels = photo(600, 400)
    cropped = resized(pixels, resize_mode="keep_ratio_largest", size_multiple=64)
    whole = resized(pixels, resize_mode="keep_ratio_largest", size_multiple=1)
    assert whole.shape == (341, 512, 3)
    assert (cropped == whole[10:330]).all()
    assert cropped.flags.c_contiguous


def test_center_crop_takes_the_central_square() -> None:
    pixels = np.zeros((400, 800, 3), np.uint8)
    pixels[:, 200:600] = 255
    assert (resized(pixels, image_size=64) == 255).all()


def test_border_pads_with_the_background_colour_around_the_middle() -> None:
    out = resized(photo(600, 400), resize_mode="border", background_color=(9, 8, 7))
    assert out.shape == (512, 512, 3)
    assert (out[:85] == (9, 8, 7)).all()
    assert (out[85 + 341 :] == (9, 8, 7)).all()
    inside = resized(photo(600, 400), resize_mode="keep_ratio_largest", size_multiple=1)
    assert (out[85 : 85 + 341] == inside).all()


def test_mode_no_changes_nothing() -> None:
    pixels = photo(77, 33)
    assert resized(pixels, resize_mode="no") is pixels
