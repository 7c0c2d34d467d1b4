import json

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from controlmill.testing import pictures
from tasks.images.exif import exif_json, orientation, upright

_HEADER = len(b"Exif\x00\x00")


def _block(**parts: dict[int, object]) -> bytes:
    return pictures.exif(parts.pop("tags", {}), **parts)[_HEADER:]


def test_tags_have_pillows_names_and_are_text_in_sorted_json() -> None:
    block = _block(
        tags={0x010F: "Nikon", 0x0112: 6, 0x011A: IFDRational(300, 1)},
        details={0x829A: IFDRational(1, 250), 0x9000: b"0232", 0x927C: b"maker's secrets", 0x8827: 400},
        gps={1: "N", 2: (52.0, 31.0, 12.5)},
    )
    tags = json.loads(exif_json(block))
    assert tags["Make"] == "Nikon"
    assert tags["Orientation"] == "6"
    assert tags["XResolution"] == "300"
    assert tags["ExposureTime"] == "1/250"
    assert tags["ISOSpeedRatings"] == "400"
    assert tags["ExifVersion"] == "0232"
    assert tags["GPSLatitudeRef"] == "N"
    assert tags["GPSLatitude"] == "[52, 31, 25/2]"
    assert "MakerNote" not in tags
    assert exif_json(block) == json.dumps(tags, sort_keys=True)


def test_nothing_is_an_empty_object() -> None:
    assert exif_json(None) == exif_json(b"") == exif_json(b"II*\x00") == "{}"


def test_user_comments_are_text_and_unknown_tags_keep_their_number() -> None:
    tags = json.loads(
        exif_json(
            _block(
                tags={0x9C9B: "Títle\x00".encode("utf-16-le")},
                details={0x9286: b"ASCII\x00\x00\x00steps 20", 0x9999: 7},
            )
        )
    )
    assert tags == {"0x9999": "7", "UserComment": "steps 20", "XPTitle": "Títle"}


@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_is_found_in_both_byte_orders(value: int) -> None:
    big = b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00" + bytes([value]) + b"\x00" * 6
    little = b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00" + bytes([value]) + b"\x00" * 7
    assert orientation(big) == orientation(little) == value


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_none(value: int) -> None:
    assert orientation(_block(tags={0x0112: value})) == 1


def test_damaged_blocks_never_raise() -> None:
    block = _block(
        tags={0x010F: "Nikon", 0x0112: 6}, details={0x829A: IFDRational(1, 250)}, gps={2: (52.0, 31.0, 12.5)}
    )
    rng = np.random.default_rng(0)
    for _ in range(500):
        damaged = bytearray(block)
        for place in rng.integers(0, len(block), 4):
            damaged[place] = rng.integers(0, 256)
        damaged = damaged[: rng.integers(0, len(block))]
        assert orientation(bytes(damaged)) in range(1, 9)
        assert isinstance(json.loads(exif_json(bytes(damaged))), dict)


@pytest.mark.parametrize("value", range(1, 9))
def test_turning_is_pillows(value: int) -> None:
    stored = pictures.photo(31, 17)
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = value
    from PIL import ImageOps

    assert (upright(stored, value) == np.asarray(ImageOps.exif_transpose(image))).all()
