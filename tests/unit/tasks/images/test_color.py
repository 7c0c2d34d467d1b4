import numpy as np
import pytest
from PIL import Image

from controlmill.config.image import ImageOptions
from controlmill.testing import pictures
from tasks.images.color import convert, srgb_transform
from tasks.images.prepare import Prepared, prepare

AS_IT_IS = ImageOptions(resize_mode="no", encode_format="png")
QUADRANTS = pictures.quadrants()
RED_AND_BLUE_SWAPPED = QUADRANTS[..., ::-1]


def _pixels(data: bytes) -> np.ndarray:
    prepared = prepare(data, AS_IT_IS)
    assert isinstance(prepared, Prepared)
    return prepared.pixels.astype(int)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_embedded_profile_is_converted_to_srgb(kind: str) -> None:
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = pictures.save(QUADRANTS, kind, icc_profile=pictures.swapped_profile(), **options)
    assert np.abs(_pixels(data) - RED_AND_BLUE_SWAPPED).mean() < 4


def test_a_profile_is_converted_under_transparency_and_in_palettes() -> None:
    opaque = Image.fromarray(QUADRANTS).convert("RGBA")
    palette = Image.fromarray(QUADRANTS).quantize(4)
    for image in (opaque, palette):
        data = pictures.save(image, "PNG", icc_profile=pictures.swapped_profile())
        assert np.abs(_pixels(data) - RED_AND_BLUE_SWAPPED).mean() < 2


def test_a_profile_that_is_srgb_already_changes_no_pixel() -> None:
    assert srgb_transform(pictures.srgb_profile(), "RGB") is None
    data = pictures.save(QUADRANTS, "PNG", icc_profile=pictures.srgb_profile())
    assert (_pixels(data) == QUADRANTS).all()


@pytest.mark.parametrize("profile", [b"", b"not a profile", pictures.srgb_profile()[:200]])
def test_a_damaged_profile_is_ignored(profile: bytes) -> None:
    assert srgb_transform(profile, "RGB") is None
    data = pictures.save(QUADRANTS, "PNG", icc_profile=profile)
    assert (_pixels(data) == QUADRANTS).all()


def test_a_profile_for_another_colour_space_is_ignored() -> None:
    assert srgb_transform(pictures.swapped_profile(), "L") is None
    assert srgb_transform(pictures.swapped_profile(), "CMYK") is None


def test_the_transform_is_built_once() -> None:
    assert srgb_transform(pictures.swapped_profile(), "RGB") is srgb_transform(pictures.swapped_profile(), "RGB")


def test_converting_keeps_shape_and_type() -> None:
    transform = srgb_transform(pictures.swapped_profile(), "RGB")
    assert transform is not None
    converted = convert(QUADRANTS, transform)
    assert converted.shape == QUADRANTS.shape
    assert converted.dtype == np.uint8
