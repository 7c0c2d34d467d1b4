"""EXIF in little: the orientation of a picture, and its tags as one JSON string.

The structure is TIFF's (TIFF 6.0, section 2; Exif 2.32, section 4.6). Every offset comes from a stranger, so each is
checked, and what does not fit is left out instead of failing the row. Parsed here rather than by Pillow because the
orientation of every photograph is wanted before it is decoded, without opening it a second time.
"""

import json
import struct
from collections.abc import Iterator
from functools import cache
from typing import Final, NamedTuple

import cv2

from tasks.images.types import Pixels, as_pixels

_ORIENTATION: Final = 0x0112
_EXIF_IFD: Final = 0x8769
_GPS_IFD: Final = 0x8825
# pointers into the file, and what the pixels were stored as: true of the downloaded file only
_LEFT_OUT: Final = frozenset(
    {_EXIF_IFD, _GPS_IFD, 0xA005, 0x927C, 0x0111, 0x0117, 0x0144, 0x0145, 0x0201, 0x0202, 0x8773}
)
_FORMATS: Final = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "s", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d"}
# XPTitle to XPSubject, which the Windows explorer writes
_WINDOWS_TEXT: Final = range(0x9C9B, 0x9CA0)
_MAX_NUM_ENTRIES = 512
_MAX_NUM_VALUES = 64
_MAX_TEXT_BYTES = 4096


class _Entry(NamedTuple):
    tag: int
    kind: int
    num_values: int
    at: int
    """Offset of the values."""


def orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 to 8, of a TIFF structure; 1 where there is none or it is damaged."""
    order = _byte_order(exif)
    for entry in _entries(exif, order, _first_ifd(exif, order)):
        if entry.tag == _ORIENTATION:
            value = _values(exif, order, entry)
            return value[0] if len(value) == 1 and value[0] in range(1, 9) else 1
    return 1


def upright(pixels: Pixels, turned: int) -> Pixels:
    """Undo the EXIF orientation `turned`: (H, W, C) becomes (W, H, C) for 5 to 8."""
    if turned in (5, 6, 7, 8):
        pixels = as_pixels(cv2.transpose(pixels))
    # after the transposition: 6 and 7 are mirrored left to right, 7 and 8 top to bottom
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(turned)
    return pixels if flip is None else as_pixels(cv2.flip(pixels, flip))


def exif_json(exif: bytes | None) -> str:
    """The tags of a TIFF structure as sorted JSON, name to text, as img2dataset's `exif` column; "{}" where none.

    Names are those of Pillow's `ExifTags`, "0x9999" where it has none.
    """
    tags: dict[str, str] = {}
    if exif:
        order = _byte_order(exif)
        main = list(_entries(exif, order, _first_ifd(exif, order)))
        _collect(exif, order, main, _names()[0], tags)
        for pointer, names in ((_EXIF_IFD, _names()[0]), (_GPS_IFD, _names()[1])):
            for entry in main:
                at = _values(exif, order, entry) if entry.tag == pointer else ()
                if at:
                    _collect(exif, order, _entries(exif, order, at[0]), names, tags)
    return json.dumps(tags, sort_keys=True)


def _collect(
    exif: bytes, order: str, entries: Iterator[_Entry] | list[_Entry], names: dict[int, str], tags: dict[str, str]
) -> None:
    for entry in entries:
        text = None if entry.tag in _LEFT_OUT else _text(exif, order, entry)
        if text is not None:
            tags.setdefault(names.get(entry.tag, f"0x{entry.tag:04x}"), text)


def _byte_order(exif: bytes) -> str:
    return {b"II*\x00": "<", b"MM\x00*": ">"}.get(exif[:4], "")


def _first_ifd(exif: bytes, order: str) -> int:
    return int(struct.unpack_from(order + "I", exif, 4)[0]) if order and len(exif) >= 8 else -1


def _entries(exif: bytes, order: str, ifd: int) -> Iterator[_Entry]:
    if ifd < 8 or ifd + 2 > len(exif):
        return
    num_entries = struct.unpack_from(order + "H", exif, ifd)[0]
    for index in range(min(num_entries, _MAX_NUM_ENTRIES)):
        at = ifd + 2 + 12 * index
        if at + 12 > len(exif):
            return
        tag, kind, num_values = struct.unpack_from(order + "HHI", exif, at)
        if kind not in _FORMATS:
            continue
        size = struct.calcsize("=" + _FORMATS[kind]) * num_values
        at = at + 8 if size <= 4 else struct.unpack_from(order + "I", exif, at + 8)[0]
        if at + size <= len(exif):
            yield _Entry(tag, kind, num_values, at)


def _values(exif: bytes, order: str, entry: _Entry) -> tuple[int, ...]:
    """Values of a whole-number entry; empty for every other kind, and for long lists."""
    if entry.kind not in (1, 3, 4, 6, 8, 9) or entry.num_values > _MAX_NUM_VALUES:
        return ()
    return struct.unpack_from(order + _FORMATS[entry.kind] * entry.num_values, exif, entry.at)


def _text(exif: bytes, order: str, entry: _Entry) -> str | None:
    if entry.kind in (2, 7) or (entry.kind == 1 and entry.num_values > 4):
        raw = exif[entry.at : entry.at + min(entry.num_values, _MAX_TEXT_BYTES)]
        if entry.kind == 2:
            return raw.decode("utf-8", errors="replace").split("\x00", 1)[0].strip()
        return (
            raw.decode("utf-16-le", errors="replace").strip("\x00") if entry.tag in _WINDOWS_TEXT else _undefined(raw)
        )
    if not 0 < entry.num_values <= _MAX_NUM_VALUES:
        return None
    values = struct.unpack_from(order + _FORMATS[entry.kind] * entry.num_values, exif, entry.at)
    if entry.kind in (5, 10):
        parts = [
            f"{top}/{bottom}" if bottom != 1 else str(top)
            for top, bottom in zip(values[::2], values[1::2], strict=True)
        ]
    else:
        parts = [str(value) for value in values]
    return parts[0] if len(parts) == 1 else f"[{', '.join(parts)}]"


def _undefined(raw: bytes) -> str:
    """UserComment and the like are text behind an eight-byte name of its encoding; the rest is shown as hex."""
    raw = raw.removeprefix(b"ASCII\x00\x00\x00").strip(b"\x00")
    return raw.decode("ascii").strip() if raw.isascii() and raw.decode("ascii").isprintable() else raw[:64].hex()


@cache
def _names() -> tuple[dict[int, str], dict[int, str]]:
    from PIL import ExifTags

    return dict(ExifTags.TAGS), dict(ExifTags.GPSTAGS)
