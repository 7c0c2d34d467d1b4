import io

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from controlmill.config.image import ImageOptions
from controlmill.testing.pictures import photo, save
from tasks.annotators.canny import Canny, CannyOptions
from tasks.images.encode import encode, encode_map


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_jpeg_is_what_pillow_writes_at_the_same_quality_and_chroma() -> None:
    pixels = photo(128, 96)
    encoded = encode(pixels, ImageOptions())
    assert encoded == save(pixels, "JPEG", quality=95, subsampling="4:2:0")
    assert JpegImagePlugin.get_sampling(opened(encoded)) == 2
    assert len(encode(pixels, ImageOptions(encode_quality=50))) < len(encoded)


@pytest.mark.parametrize(("name", "kind"), [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_channels_stay_in_order(name: str, kind: str) -> None:
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 200
    image = opened(encode(red, ImageOptions(encode_format=name)))
    assert image.format == kind
    assert np.abs(np.asarray(image.convert("RGB")).astype(int) - red).max() <= 4


def test_png_is_lossless() -> None:
    pixels = photo(100, 60)
    assert (np.asarray(opened(encode(pixels, ImageOptions(encode_format="png")))) == pixels).all()


@pytest.mark.parametrize("shape", [(64, 128), (37, 101), (1, 1)])
def test_maps_come_back_as_they_were(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, shape, np.uint8)
    for pixels, mode in (
        (grey, "L"),
        (np.where(grey > 200, 255, 0).astype(np.uint8), "L"),
        (rng.integers(0, 256, (*shape, 3), np.uint8), "RGB"),
    ):
        image = opened(encode_map(pixels))
        assert image.mode == mode
        assert (np.array(image) == pixels).all()


def test_edges_are_small() -> None:
    (edges,) = Canny(CannyOptions())([photo(512, 384)], ["0"])
    assert len(encode_map(edges.map)) < edges.map.size / 20
