import pytest

from controlmill.testing import pictures
from tasks.images.sniff import image_format, looks_like


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tiff")],
)
def test_images_are_known_by_their_first_bytes(kind: str, expected: str) -> None:
    assert image_format(pictures.save(pictures.quadrants(), kind)) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (pictures.html_page(), "an HTML page"),
        (b"\xef\xbb\xbf  <html>", "an HTML page"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing, which is not read"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML document"),
        (b'{"error": "not found"}', "a JSON document"),
        (b"Access denied\n", "text: 'access denied'"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\x00\x00\x00\x1cftypavif", "an AVIF image, which is not read"),
        (b"\x00\x00\x00\x1cftypisom", "an MP4 video or another ISO media file"),
        (b"\x01\x02\x03\x04\xfe", "unknown bytes 01 02 03 04 fe"),
    ],
)
def test_other_files_are_named(data: bytes, expected: str) -> None:
    assert image_format(data) is None
    assert looks_like(data) == expected
