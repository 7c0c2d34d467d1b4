"""Stored images and maps back to pixels."""

import cv2
import numpy as np
import pytest

from controlmill.config.image import ImageOptions
from storage.stored_image import decode_map, decode_stored
from tasks.images.encode import encode, encode_map

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_images_come_back_as_rgb(kind: str) -> None:
    even = np.full((16, 24, 3), (200, 100, 30), np.uint8)
    found = decode_stored(encode(even, ImageOptions.model_validate({"encode_format": kind})))
    assert found.shape == even.shape
    assert np.abs(found.astype(int) - even).max() <= 3


def test_maps_come_back_to_the_bit() -> None:
    assert np.array_equal(decode_map(encode_map(PIXELS)), PIXELS)
    assert np.array_equal(decode_map(encode_map(PIXELS[..., 0])), PIXELS[..., 0])
    edges = (PIXELS[..., 0] > 128).astype(np.uint8) * 255
    assert np.array_equal(decode_map(encode_map(edges)), edges)


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="not a stored image: 5 bytes that begin with b'hello'"):
        decode_stored(b"hello")
    with pytest.raises(ValueError, match="not a stored image: 0 bytes"):
        decode_map(b"")
    deep = cv2.imencode(".png", PIXELS[..., 0].astype(np.uint16))[1].tobytes()
    with pytest.raises(ValueError, match="not a stored map: uint16"):
        decode_map(deep)


def test_a_jpeg_that_ends_early_is_refused() -> None:
    encoded = encode(np.repeat(np.repeat(PIXELS, 8, axis=0), 8, axis=1), ImageOptions())
    with pytest.raises(ValueError, match=r"(?i)premature|truncated|corrupt|end"):
        decode_stored(encoded[: len(encoded) // 2])
