"""What a downloaded file is, by its first bytes: server and URL say too often .jpg for a web page."""

from typing import Final, Literal

Format = Literal["jpg", "png", "webp", "gif", "bmp", "tiff"]

_IMAGES: Final[tuple[tuple[bytes, Format], ...]] = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
)
_OTHERS: Final = (
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "gzip-compressed data"),
    (b"PK\x03\x04", "a zip archive"),
    (b"8BPS", "a Photoshop file"),
    (b"\x00\x00\x01\x00", "an icon (ICO)"),
    (b"\xff\x0a", "a JPEG XL image, which is not read"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image, which is not read"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
)
_BRANDS: Final = {b"avif": "an AVIF image, which is not read", b"heic": "a HEIC image, which is not read"}
_MARKS: Final = (
    ("<!doctype html", "an HTML page"),
    ("<html", "an HTML page"),
    ("<head", "an HTML page"),
    ("<body", "an HTML page"),
    ("<script", "an HTML page"),
    ("<svg", "an SVG drawing, which is not read"),
    ("<?xml", "an XML document"),
)
_NUM_TEXT_BYTES = 512


def image_format(data: bytes) -> Format | None:
    """The image format that `data` starts as, None for anything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((name for magic, name in _IMAGES if data.startswith(magic)), None)


def looks_like(data: bytes) -> str:
    """What a file that is no image seems to be, for the message of its failure."""
    for magic, name in _OTHERS:
        if data.startswith(magic):
            return name
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "an MP4 video or another ISO media file")
    return _text(data[:_NUM_TEXT_BYTES]) or f"unknown bytes {data[:8].hex(' ')}"


def _text(start: bytes) -> str | None:
    text = start.decode("utf-8", errors="ignore").lstrip("\ufeff").lower().strip()
    # the last character of the sample may be cut off
    if (
        len(start.decode("utf-8", errors="ignore").encode()) < len(start) - 3
        or not " ".join(text.split()).isprintable()
    ):
        return None
    for mark, name in _MARKS:
        if mark in text:
            return name
    return "a JSON document" if text.startswith(("{", "[")) else f"text: {' '.join(text.split())[:60]!r}"
