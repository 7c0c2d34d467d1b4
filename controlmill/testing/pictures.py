"""Test pictures, drawn and not downloaded: synthetic photographs, and a file for each way in which one goes wrong.

Arrays are RGB uint8 (height, width, 3); functions that return `bytes` return a whole file.
"""

import io
import struct
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Pixels = NDArray[np.uint8]

_ORIENTATION = 0x0112
# what a camera stores when it is held so that the picture has to be turned by this orientation to stand upright
_STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def photo(width: int, height: int, seed: int = 0) -> Pixels:
    """A picture with the statistics of a photograph and no sensor noise: octaves of texture, a light, sharp discs.

    JPEG files of it are as large as those of photographs (640x480 at quality 90: about 70 kB).
    """
    rng = np.random.default_rng([seed, width, height])
    canvas = np.zeros((height, width, 3), np.float32)
    canvas += 128 + 40 * np.linspace(1, -1, height, dtype=np.float32)[:, None, None]
    cell = max(width, height)
    while cell >= 2:
        grid = rng.normal(size=(-(-height // cell) + 1, -(-width // cell) + 1, 3)).astype(np.float32)
        grid = 0.8 * grid.mean(axis=2, keepdims=True) + 0.2 * grid
        canvas += (
            cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 42 * (cell / max(width, height)) ** 0.3
        )
        cell //= 2
    for _ in range(9):
        _disc(canvas, rng.uniform(0, 1, 2) * (height, width), rng.uniform(0.04, 0.16) * min(width, height), rng)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _disc(canvas: NDArray[np.float32], center: NDArray[np.float64], radius: float, rng: np.random.Generator) -> None:
    """Blend an anti-aliased disc of a random colour into the canvas."""
    top, left = np.maximum(center - radius - 1, 0).astype(int)
    bottom, right = (center + radius + 2).astype(int)
    part = canvas[top:bottom, left:right]
    y, x = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
    cover = np.clip(radius - np.hypot(y + 0.5 - center[0], x + 0.5 - center[1]) + 0.5, 0, 1)[..., None]
    part += (0.6 * (rng.uniform(0, 255, 3) - part) * cover).astype(np.float32)


def quadrants(width: int = 64, height: int = 48) -> Pixels:
    """Red, green, blue and yellow quarters, row by row: every turn and every mix-up of channels shows."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (220, 30, 30)
    pixels[: height // 2, width // 2 :] = (30, 200, 30)
    pixels[height // 2 :, : width // 2] = (30, 30, 220)
    pixels[height // 2 :, width // 2 :] = (220, 220, 30)
    return pixels


def save(image: Image.Image | Pixels, kind: str, **options: object) -> bytes:
    """The file that Pillow writes: `kind` is "JPEG", "PNG", "WEBP", "GIF", "BMP" or "TIFF"."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(pixels: Pixels, quality: int = 90, **options: object) -> bytes:
    """A baseline JPEG with chroma at half size."""
    return save(pixels, "JPEG", quality=quality, subsampling="4:2:0", **options)


def exif(
    tags: dict[int, object], details: dict[int, object] | None = None, gps: dict[int, object] | None = None
) -> bytes:
    """An EXIF block as Pillow's `exif=` takes it: tags of the main directory, the Exif one and the GPS one."""
    block = Image.Exif()
    block.update(tags)
    if details:
        block.get_ifd(0x8769).update(details)
    if gps:
        block.get_ifd(0x8825).update(gps)
    return block.tobytes()


def turned(pixels: Pixels, orientation: int, kind: str = "JPEG") -> bytes:
    """A file that shows `pixels` once its EXIF orientation is applied."""
    image, how = Image.fromarray(pixels), _STORED[orientation]
    image = image if how is None else image.transpose(how)
    options: dict[str, object] = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    return save(image, kind, exif=exif({_ORIENTATION: orientation}), **options)


def cmyk_jpeg(pixels: Pixels, *, adobe: bool = True) -> bytes:
    """A CMYK JPEG: with Adobe's marker and inverted, as all of them are, or neither."""
    image = Image.fromarray(pixels).convert("CMYK")
    if adobe:
        return save(image, "JPEG", quality=95)
    # Pillow inverts what it writes, so this is inverted twice
    return without_segment(save(Image.eval(image, lambda value: 255 - value), "JPEG", quality=95), 0xEE)


def ycck_jpeg(pixels: Pixels) -> bytes:
    """A JPEG in Adobe's YCCK: the inks cyan, magenta and yellow as Y, Cb and Cr, and black."""
    cyan, magenta, yellow, black = Image.fromarray(pixels).convert("CMYK").split()
    luma, blue, red = Image.merge("RGB", (cyan, magenta, yellow)).convert("YCbCr").split()
    # Pillow writes 255 - value: right for the inverted black, undone for the others
    bands = [Image.eval(band, lambda value: 255 - value) for band in (luma, blue, red)]
    data = save(Image.merge("CMYK", (*bands, black)), "JPEG", quality=95)
    at = data.index(b"Adobe") + 11
    return data[:at] + b"\x02" + data[at + 1 :]


def odd_jpeg() -> bytes:
    """A grey JPEG of 16x16 whose channels are sampled 2x2, 2x1 and 1x1: legal, and unknown to TurboJPEG's list."""
    data = bytearray(save(np.full((16, 16, 3), 128, np.uint8), "JPEG", keep_rgb=True))
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    data[frame + 11 : frame + 20 : 3] = bytes((0x22, 0x21, 0x11))
    # a block of zeros is 00 (no difference) 1010 (end of block); seven of them, then ones to the end of the byte
    bits = "001010" * 7 + "111111"
    pixels = int(bits, 2).to_bytes(len(bits) // 8)
    return bytes(data[: scan + 14]) + pixels + b"\xff\xd9"


def without_segment(data: bytes, marker: int) -> bytes:
    """A JPEG without its first segment of this marker."""
    at = data.index(bytes((0xFF, marker)))
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4]) :]


def swapped_profile() -> bytes:
    """An ICC profile in which red is blue and blue is red: nobody can overlook whether it was applied."""
    profile = bytearray(srgb_profile())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


def srgb_profile() -> bytes:
    """The ICC profile of sRGB; the same bytes every time."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # ICC.1:2022, 7.2.2: bytes 24 to 35 of the header are the time at which the profile was made
    return profile[:24] + bytes(12) + profile[36:]


def png_16_bit(values: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits a channel from grey (H, W), RGB (H, W, 3) or RGBA (H, W, 4)."""
    order = {2: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[
        values.ndim if values.ndim == 2 else values.shape[2]
    ]
    encoded, data = cv2.imencode(".png", values if order is None else cv2.cvtColor(values, order))
    assert encoded  # noqa: S101  a drawing for tests
    return data.tobytes()


def bomb_png(width: int = 50_000, height: int = 50_000) -> bytes:
    """A PNG of a hundred bytes whose header claims this size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\x00" * 64)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def truncated(data: bytes, share: float = 0.5) -> bytes:
    """The first part of a file, as a broken connection leaves it."""
    return data[: int(len(data) * share)]


def html_page() -> bytes:
    """What a server sends for an image that is gone, under the name of the image."""
    return b"<!DOCTYPE html>\n<html><head><title>Not here</title></head><body>This image has moved.</body></html>\n"
