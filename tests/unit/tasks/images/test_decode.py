import json

import cv2
import numpy as np
import pytest
from PIL import Image

from controlmill.config.image import ImageOptions
from controlmill.reasons import Reason, RowFailure
from controlmill.testing import pictures
from tasks.images.decode import Decoded, decode, decode_stored

AS_IT_IS = ImageOptions(resize_mode="no")
QUADRANTS = pictures.quadrants()


def decoded(data: bytes, options: ImageOptions = AS_IT_IS) -> Decoded:
    result = decode(data, options)
    assert isinstance(result, Decoded), result
    return result


def failed(data: bytes, options: ImageOptions = AS_IT_IS) -> RowFailure:
    result = decode(data, options)
    assert isinstance(result, RowFailure)
    return result


def close_to(pixels: np.ndarray, expected: np.ndarray, tolerance: float = 4) -> bool:
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape
    return float(np.abs(pixels.astype(int) - expected).mean()) <= tolerance


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_upright(kind: str, orientation: int) -> None:
    result = decoded(pictures.turned(QUADRANTS, orientation, kind))
    assert close_to(result.pixels, QUADRANTS)
    assert (result.original_width, result.original_height) == (64, 48)
    assert json.loads(result.exif)["Orientation"] == str(orientation)


@pytest.mark.parametrize(
    "data",
    [
        pictures.jpeg(QUADRANTS),
        pictures.jpeg(QUADRANTS, progressive=True),
        pictures.save(QUADRANTS, "JPEG", quality=95, keep_rgb=True),
        pictures.cmyk_jpeg(QUADRANTS),
        pictures.cmyk_jpeg(QUADRANTS, adobe=False),
        pictures.ycck_jpeg(QUADRANTS),
        pictures.save(QUADRANTS, "BMP"),
        pictures.save(QUADRANTS, "TIFF", compression="tiff_lzw"),
        pictures.save(Image.fromarray(QUADRANTS).convert("CMYK"), "TIFF"),
        pictures.save(Image.fromarray(QUADRANTS).convert("RGBA"), "PNG"),
        pictures.save(QUADRANTS, "WEBP", quality=90),
        pictures.save(Image.fromarray(QUADRANTS).quantize(16), "PNG"),
        pictures.save(Image.fromarray(QUADRANTS).quantize(16), "GIF"),
        pictures.png_16_bit(QUADRANTS.astype(np.uint16) * 257),
    ],
    ids=lambda data: data[:4].hex(),
)
def test_every_kind_becomes_the_same_rgb(data: bytes) -> None:
    assert close_to(decoded(data).pixels, QUADRANTS, tolerance=6)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "GIF"])
def test_grey_becomes_three_equal_channels(kind: str) -> None:
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))
    result = decoded(pictures.save(Image.fromarray(ramp), kind))
    assert close_to(result.pixels, np.repeat(ramp[..., None], 3, axis=2), tolerance=1)
    assert not result.plain


def test_sixteen_bits_are_scaled_and_rounded() -> None:
    ramp = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    expected = np.rint(ramp / 257).astype(np.uint8)
    grey = decoded(pictures.png_16_bit(ramp)).pixels
    assert (grey == expected[..., None]).all()
    color = decoded(pictures.png_16_bit(np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=-1))).pixels
    assert (color == np.stack([expected, expected[::-1], expected[:, ::-1]], axis=-1)).all()
    tiff = decoded(pictures.save(Image.fromarray(ramp), "TIFF")).pixels
    assert (tiff == expected[..., None]).all()


def test_sixteen_bit_alpha_is_composited() -> None:
    deep = np.full((48, 64, 4), 65535, np.uint16)
    deep[..., 1:3] = 0
    deep[:, 32:, 3] = 0
    pixels = decoded(pictures.png_16_bit(deep), ImageOptions(resize_mode="no", background_color=(1, 2, 3))).pixels
    assert (pixels[:, :32] == (255, 0, 0)).all()
    assert (pixels[:, 32:] == (1, 2, 3)).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparent_parts_show_the_background_colour(kind: str) -> None:
    layers = np.dstack([QUADRANTS, np.full(QUADRANTS.shape[:2], 255, np.uint8)])
    layers[:24, :, 3] = 0
    layers[24:, 32:, 3] = 128
    options = {"lossless": True} if kind == "WEBP" else {}
    result = decoded(
        pictures.save(Image.fromarray(layers), kind, **options),
        ImageOptions(resize_mode="no", background_color=(10, 250, 20)),
    )
    assert (result.pixels[:24] == (10, 250, 20)).all()
    assert (result.pixels[24:, :32] == QUADRANTS[24:, :32]).all()
    half = (QUADRANTS[30, 50] * 128.0 + np.array((10, 250, 20)) * 127.0) / 255
    assert np.abs(result.pixels[30, 50] - half).max() <= 1
    assert not result.plain


def test_grey_with_alpha_and_transparent_palettes_show_the_background() -> None:
    grey = Image.merge("LA", (Image.new("L", (64, 48), 40), Image.new("L", (64, 48), 0)))
    assert (decoded(pictures.save(grey, "PNG")).pixels == 255).all()
    palette = Image.fromarray(QUADRANTS).quantize(4)
    transparent = palette.getpixel((0, 0))
    for kind in ("PNG", "GIF"):
        pixels = decoded(pictures.save(palette, kind, transparency=transparent)).pixels
        assert (pixels[:24, :32] == 255).all()
        assert close_to(pixels[24:], QUADRANTS[24:])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    other = [Image.new("RGB", (64, 48), (0, 0, 0))]
    options = {"lossless": True} if kind == "WEBP" else {}
    result = decoded(pictures.save(QUADRANTS, kind, save_all=True, append_images=other, **options))
    assert close_to(result.pixels, QUADRANTS)
    assert not result.plain


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.97])
def test_a_truncated_file_is_corrupt_and_never_half_grey(kind: str, share: float) -> None:
    data = pictures.truncated(pictures.save(pictures.photo(160, 120), kind), share)
    failure = failed(data)
    assert failure.reason is Reason.CORRUPT_IMAGE
    assert len(failure.message) > len("cannot decode this jpg: ")


def test_truncation_is_seen_when_decoding_at_a_reduced_size_and_in_progressive_files() -> None:
    options = ImageOptions(image_size=64)
    for progressive in (False, True):
        data = pictures.truncated(pictures.jpeg(pictures.photo(640, 480), progressive=progressive), 0.9)
        failure = failed(data, options)
        assert failure.reason is Reason.CORRUPT_IMAGE
        assert "Premature end" in failure.message


def test_what_follows_a_whole_jpeg_does_no_harm() -> None:
    data = pictures.jpeg(QUADRANTS)
    assert close_to(decoded(data + b"trailing bytes of some server").pixels, QUADRANTS)
    assert close_to(decoded(data[:-2] + b"\x00\x11\x22\x33" + data[-2:]).pixels, QUADRANTS)


def test_a_jpeg_with_unusual_sampling_is_read() -> None:
    assert close_to(decoded(pictures.odd_jpeg()).pixels, np.full((16, 16, 3), 128, np.uint8), tolerance=1)
    assert failed(pictures.odd_jpeg()[:-4]).reason is Reason.CORRUPT_IMAGE


def test_a_gif_frame_larger_than_its_header_is_held_to_the_limit() -> None:
    data = bytearray(pictures.save(Image.new("P", (300, 200)), "GIF"))
    data[6:10] = b"\x10\x00\x10\x00"
    assert failed(bytes(data), ImageOptions(resize_mode="no", max_source_pixels=1000)).reason is Reason.CORRUPT_IMAGE
    assert decoded(bytes(data)).pixels.shape == (200, 300, 3)


def test_nothing_and_other_files_are_told_apart() -> None:
    assert failed(b"").reason is Reason.EMPTY
    failure = failed(pictures.html_page())
    assert failure.reason is Reason.NOT_AN_IMAGE
    assert failure.message == "not an image, but an HTML page"


def test_a_picture_bomb_is_refused_by_its_header() -> None:
    failure = failed(pictures.bomb_png())
    assert failure.reason is Reason.TOO_MANY_PIXELS
    assert "50000x50000" in failure.message


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_limits_are_checked_on_the_header_of_every_format(kind: str) -> None:
    # the pixels are cut off: had they been decoded, the file would be corrupt
    data = pictures.truncated(pictures.save(pictures.photo(300, 100), kind), 0.9)
    limits = {
        Reason.TOO_MANY_PIXELS: {"max_source_pixels": 29_999},
        Reason.TOO_SMALL: {"min_image_size": 101},
        Reason.BAD_ASPECT_RATIO: {"max_aspect_ratio": 2.9},
    }
    if kind == "TIFF":
        # its directory stands at the end of the file
        data = pictures.save(pictures.photo(300, 100), kind)
    for reason, options in limits.items():
        assert failed(data, ImageOptions(resize_mode="no", **options)).reason is reason
    assert failed(data, ImageOptions(resize_mode="no", max_image_area=29_999)).reason is Reason.TOO_MANY_PIXELS


def test_limits_themselves_are_allowed() -> None:
    options = {"max_source_pixels": 30_000, "min_image_size": 100, "max_aspect_ratio": 3, "max_image_area": 30_000}
    assert decoded(pictures.jpeg(pictures.photo(300, 100)), ImageOptions(resize_mode="no", **options))


def test_damaged_files_are_failures_and_never_exceptions() -> None:
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = pictures.save(pictures.photo(64, 64), kind)
        for _ in range(40):
            data = bytearray(whole)
            for place in rng.integers(4, min(len(data), 400), 3):
                data[place] = rng.integers(0, 256)
            result = decode(bytes(data), ImageOptions(image_size=64, max_source_pixels=1_000_000))
            assert isinstance(result, Decoded | RowFailure)


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((1024, 768), {"resize_mode": "keep_ratio_largest"}, (512, 384)),
        ((1024, 768), {"resize_mode": "keep_ratio"}, (1024, 768)),  # half of it would be lower than 512
        ((1024, 768), {"resize_mode": "center_crop", "image_size": 384}, (512, 384)),
        ((1600, 1200), {"resize_mode": "keep_ratio_largest"}, (800, 600)),
        ((1600, 1200), {"resize_mode": "border", "image_size": 256}, (400, 300)),
        ((1600, 1200), {"resize_mode": "center_crop", "image_size": 128}, (200, 150)),
        ((641, 513), {"resize_mode": "keep_ratio", "image_size": 64}, (81, 65)),  # an eighth, rounded up
    ],
)
def test_a_jpeg_far_larger_than_its_target_is_decoded_small(
    size: tuple[int, int], options: dict[str, object], expected: tuple[int, int]
) -> None:
    result = decoded(pictures.jpeg(pictures.photo(*size)), ImageOptions(**options))
    assert result.pixels.shape[1::-1] == expected
    assert (result.original_width, result.original_height) == size


def test_decoding_small_looks_like_decoding_in_full_and_averaging() -> None:
    """Measured here: mean 0.4, largest 14 of 255, at the sharp edges of the drawing; 52 dB."""
    pixels = pictures.photo(1600, 1200)
    data = pictures.jpeg(pixels)
    small = decoded(data, ImageOptions(resize_mode="keep_ratio_largest")).pixels
    assert small.shape == (600, 800, 3)
    full = decoded(data).pixels
    expected, ours = (cv2.resize(one, (512, 384), interpolation=cv2.INTER_AREA).astype(int) for one in (full, small))
    difference = np.abs(ours - expected)
    assert difference.mean() < 0.6
    assert difference.max() <= 25


def test_nearest_wants_every_pixel() -> None:
    options = ImageOptions(image_size=128, downscale_interpolation="nearest")
    assert decoded(pictures.jpeg(pictures.photo(640, 480)), options).pixels.shape == (480, 640, 3)


def test_exif_is_left_out_where_it_is_not_wanted() -> None:
    data = pictures.turned(QUADRANTS, 6)
    assert decoded(data, ImageOptions(resize_mode="no", extract_exif=False)).exif is None
    assert decoded(pictures.jpeg(QUADRANTS)).exif == "{}"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_stored_images_are_read_back(suffix: str) -> None:
    kind = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[suffix]
    assert close_to(decode_stored(pictures.save(QUADRANTS, kind)), QUADRANTS)


def test_a_kept_jpeg_with_unusual_sampling_is_read_back() -> None:
    assert close_to(decode_stored(pictures.odd_jpeg()), np.full((16, 16, 3), 128, np.uint8), tolerance=1)


def test_bytes_that_are_no_stored_image_say_so() -> None:
    with pytest.raises(ValueError, match="<!DOCTYPE"):
        decode_stored(pictures.html_page())
