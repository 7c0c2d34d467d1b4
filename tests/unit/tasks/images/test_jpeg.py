import numpy as np
import pytest

from controlmill.testing import pictures
from tasks.images.jpeg import JpegError, dct_factor, decode_jpeg, is_simple, read_markers

PIXELS = pictures.photo(160, 120)


def test_markers_say_size_channels_exif_and_profile() -> None:
    profile = pictures.swapped_profile()
    block = pictures.exif({0x010F: "Nikon"})
    markers = read_markers(pictures.jpeg(PIXELS, exif=block, icc_profile=profile))
    assert (markers.width, markers.height, markers.num_channels, markers.bits) == (160, 120, 3, 8)
    assert markers.sampling == b"\x22\x11\x11"
    assert markers.exif == block.removeprefix(b"Exif\x00\x00")
    assert markers.profile == profile
    assert not markers.adobe
    assert is_simple(markers)


def test_a_profile_in_pieces_is_put_together() -> None:
    profile = np.random.default_rng(0).bytes(200_000)
    assert read_markers(pictures.jpeg(PIXELS, icc_profile=profile)).profile == profile


def test_a_thumbnail_in_exif_is_not_the_picture() -> None:
    thumbnail = pictures.exif({0x010F: "Nikon"}) + pictures.jpeg(pictures.quadrants(32, 32))
    assert read_markers(pictures.jpeg(PIXELS, exif=thumbnail)).width == 160


def test_inks_and_unusual_sampling_are_not_simple() -> None:
    cmyk = read_markers(pictures.cmyk_jpeg(PIXELS))
    assert cmyk.adobe
    assert not is_simple(cmyk)
    assert not is_simple(read_markers(pictures.odd_jpeg()))


@pytest.mark.parametrize("length", [3, 20, 200, 400])
def test_markers_that_end_early_are_an_error(length: int) -> None:
    with pytest.raises(JpegError):
        read_markers(pictures.jpeg(PIXELS)[:length])


@pytest.mark.parametrize(
    ("size", "needed", "factor"),
    [
        ((1024, 768), (512, 384), 2),
        ((1023, 767), (512, 384), 2),
        ((1022, 767), (512, 384), 1),
        ((4000, 3000), (512, 384), 4),
        ((8000, 3072), (512, 384), 8),
        ((640, 480), (640, 480), 1),
        ((100, 100), (512, 512), 1),
    ],
)
def test_the_factor_never_goes_under_what_is_needed(
    size: tuple[int, int], needed: tuple[int, int], factor: int
) -> None:
    assert dct_factor(*size, needed) == factor


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(160, 120), (157, 113)])
def test_decoded_size_is_divided_and_rounded_up(size: tuple[int, int], factor: int) -> None:
    data = pictures.jpeg(pictures.photo(*size))
    assert decode_jpeg(data, size, factor).shape == (-(-size[1] // factor), -(-size[0] // factor), 3)


def test_a_size_that_is_not_libjpegs_is_an_error() -> None:
    with pytest.raises(JpegError, match="ambiguous"):
        decode_jpeg(pictures.jpeg(PIXELS), (120, 160))
