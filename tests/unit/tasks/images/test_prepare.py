import io
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from controlmill.config.image import ImageOptions
from controlmill.reasons import Reason, RowFailure
from controlmill.testing import pictures
from tasks.images.prepare import Prepared, prepare


def prepared(data: bytes, **options: object) -> Prepared:
    result = prepare(data, ImageOptions(**options))
    assert isinstance(result, Prepared), result
    return result


def test_a_photograph_becomes_a_square_jpeg_with_its_own_pixels() -> None:
    result = prepared(pictures.jpeg(pictures.photo(640, 480)))
    assert (result.width, result.height, result.original_width, result.original_height) == (512, 512, 640, 480)
    assert result.pixels.shape == (512, 512, 3)
    image = Image.open(io.BytesIO(result.encoded))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (512, 512))
    assert np.abs(np.asarray(image).astype(int) - result.pixels).mean() < 3
    assert result.exif == "{}"


def test_a_turned_photograph_is_resized_upright() -> None:
    upright = pictures.photo(300, 400)
    for orientation in (3, 6, 8):
        result = prepared(pictures.turned(upright, orientation), image_size=128, resize_mode="keep_ratio_largest")
        assert (result.width, result.height) == (64, 128)
        assert (result.original_width, result.original_height) == (300, 400)
        expected = prepared(pictures.save(upright, "PNG"), image_size=128, resize_mode="keep_ratio_largest").pixels
        assert np.abs(result.pixels.astype(int) - expected).mean() < 4


def test_threads_and_order_change_nothing() -> None:
    sources = [pictures.jpeg(pictures.photo(600 + 37 * index, 500, seed=index)) for index in range(8)]
    alone = [prepared(data).encoded for data in sources]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda data: prepared(data).encoded, sources[::-1] * 2))
    assert together == (alone[::-1]) * 2


def test_opencv_starts_no_threads() -> None:
    prepared(pictures.jpeg(pictures.quadrants()), image_size=64)
    assert cv2.getNumThreads() == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY),
        (pictures.html_page(), Reason.NOT_AN_IMAGE),
        (pictures.bomb_png(), Reason.TOO_MANY_PIXELS),
        (pictures.truncated(pictures.jpeg(pictures.photo(200, 200))), Reason.CORRUPT_IMAGE),
        (pictures.jpeg(pictures.photo(400, 30)), Reason.TOO_SMALL),
    ],
)
def test_failures_are_values(data: bytes, reason: Reason) -> None:
    failure = prepare(data, ImageOptions(resize_mode="keep_ratio_largest"))
    assert isinstance(failure, RowFailure)
    assert failure.reason is reason


class TestSkipReencode:
    options = {"image_size": 128, "skip_reencode": True, "resize_mode": "keep_ratio_largest"}  # noqa: RUF012  read only

    def test_bytes_that_are_right_already_are_kept(self) -> None:
        data = pictures.jpeg(pictures.photo(128, 64), quality=70)
        assert prepared(data, **self.options).encoded == data
        assert prepared(data, **{**self.options, "skip_reencode": False}).encoded != data

    def test_a_profile_that_is_srgb_does_not_matter(self) -> None:
        data = pictures.jpeg(pictures.photo(128, 64), icc_profile=pictures.srgb_profile())
        assert prepared(data, **self.options).encoded == data

    @pytest.mark.parametrize(
        "data",
        [
            pictures.jpeg(pictures.photo(256, 128)),
            pictures.jpeg(pictures.photo(128, 100)),
            pictures.save(pictures.photo(128, 64), "PNG"),
            pictures.turned(pictures.photo(128, 64), 3),
            pictures.cmyk_jpeg(pictures.photo(128, 64)),
            pictures.save(Image.fromarray(pictures.photo(128, 64)).convert("L"), "JPEG"),
            pictures.jpeg(pictures.photo(128, 64), icc_profile=pictures.swapped_profile()),
        ],
        ids=["larger", "not a multiple", "other format", "turned", "CMYK", "grey", "other profile"],
    )
    def test_all_others_are_encoded(self, data: bytes) -> None:
        result = prepared(data, **self.options)
        assert result.encoded != data
        with Image.open(io.BytesIO(result.encoded)) as image:
            assert (image.mode, image.size) == ("RGB", (result.width, result.height))

    def test_an_animation_is_not_kept(self) -> None:
        frames = [Image.new("RGB", (128, 64), (0, 0, 0))]
        data = pictures.save(pictures.photo(128, 64), "WEBP", save_all=True, append_images=frames)
        result = prepared(data, **self.options, encode_format="webp")
        with Image.open(io.BytesIO(result.encoded)) as image:
            assert not image.is_animated
