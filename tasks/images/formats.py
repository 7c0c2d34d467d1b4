"""Every picture that is not a plain JPEG, through Pillow: palettes, alpha, CMYK, 16 bits, profiles, first frames.

The plugins are opened directly and not by `Image.open`, whose limit of pixels is one global number for the process; the
limit of the options is checked before.
"""

import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from controlmill.config.image import ImageOptions
from tasks.images.color import apply, srgb_transform
from tasks.images.exif import orientation, upright
from tasks.images.sniff import Format
from tasks.images.types import Pixels, as_pixels

Color = tuple[int, int, int]

_PLUGINS: Final[dict[Format, type[ImageFile.ImageFile]]] = {
    "bmp": BmpImageFile,
    "gif": GifImageFile,
    "jpg": JpegImageFile,
    "png": PngImageFile,
    "tiff": TiffImageFile,
    "webp": WebPImageFile,
}


@dataclass(frozen=True, slots=True)
class Picture:
    """The first frame of a file, upright."""

    pixels: Pixels
    transform: ImageCms.ImageCmsTransform | None
    """Still to be applied; cheaper after resizing."""
    exif: bytes | None
    plain: bool
    """The file holds these pixels as RGB8 and nothing else: one frame, upright, no alpha, no profile to apply."""


def header_size(data: bytes, kind: Format) -> tuple[int, int]:
    """Width and height that the header claims, as stored; nothing is allocated for them.

    Raises:
        ValueError, struct.error: the header is damaged (a TIFF may raise more; see `decode`).
    """
    if kind == "png":
        return struct.unpack_from(">II", data, 16)
    if kind == "gif":
        return struct.unpack_from("<HH", data, 6)
    if kind == "bmp":
        if struct.unpack_from("<I", data, 14)[0] == 12:
            return struct.unpack_from("<HH", data, 18)
        width, height = struct.unpack_from("<ii", data, 18)
        # a negative height says that the rows run from top to bottom
        return abs(width), abs(height)
    if kind == "webp":
        return _webp_size(data)
    return _PLUGINS[kind](BytesIO(data)).size


def _webp_size(data: bytes) -> tuple[int, int]:
    """Source: RFC 9649, sections 2.5 to 2.7."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError(f"a WebP file starts with VP8, VP8L or VP8X, not {chunk!r}")


def decode_picture(data: bytes, kind: Format, options: ImageOptions, *, adobe: bool = True) -> Picture:
    """Decode with Pillow: the first frame, upright, RGB, transparent parts over the background colour.

    `adobe` says whether a CMYK JPEG is stored inverted, as Adobe does.

    Raises:
        Exception: what Pillow's plugins meet in a damaged file is of any kind.
    """
    with _PLUGINS[kind](BytesIO(data)) as image:
        # a GIF's frame may be larger than its header says
        if image.width * image.height > options.max_source_pixels:
            raise ValueError(f"a frame of {image.width}x{image.height} in a smaller picture")
        image.load()
        exif = image.info.get("exif")
        turned = 1
        if exif is not None:
            exif = exif.removeprefix(b"Exif\x00\x00")
            turned = orientation(exif)
        plain = turned == 1 and image.mode == "RGB" and not getattr(image, "is_animated", False)
        if kind == "tiff":
            # Pillow has turned it already; the file itself is the structure that EXIF borrowed
            exif, turned, plain = data, 1, False
        pixels, transform, opaque = _rgb(_shallow(image, data, kind), options.background_color, adobe=adobe)
    return Picture(upright(pixels, turned), transform, exif, plain and opaque and transform is None)


def _shallow(image: Image.Image, data: bytes, kind: Format) -> Image.Image:
    """The image with 8 bits a channel; 16 bits are scaled by 255/65535, where Pillow cuts off the low byte."""
    if kind == "png" and data[24] == 16:
        deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if deep is None:
            raise ValueError("OpenCV does not read this 16-bit PNG")
        flat = Image.fromarray(_to_8_bits(deep))
        flat.info = {name: value for name, value in image.info.items() if name == "icc_profile"}
        return flat
    if image.mode.startswith("I;16"):
        return Image.fromarray(_to_8_bits(np.asarray(image).astype(np.uint16)))
    if image.mode in ("I", "F"):
        raise ValueError(f"32 bits a channel ({image.mode}): nothing says which value is white")
    return image


def _to_8_bits(deep: NDArray[Any]) -> Pixels:
    """uint16 grey, BGR or BGRA, in OpenCV's order, to uint8 grey, RGB or RGBA."""
    flat: NDArray[Any] = as_pixels(cv2.convertScaleAbs(deep, alpha=255 / 65535)).reshape(deep.shape)
    if flat.ndim == 2:
        return flat
    return as_pixels(cv2.cvtColor(flat, cv2.COLOR_BGRA2RGBA if flat.shape[-1] == 4 else cv2.COLOR_BGR2RGB))


def _rgb(
    image: Image.Image, background: Color, *, adobe: bool
) -> tuple[Pixels, ImageCms.ImageCmsTransform | None, bool]:
    """RGB pixels, the transform still to be applied to them, and whether the image had no transparency."""
    profile = image.info.get("icc_profile")
    if image.has_transparency_data:
        # LA and P become RGBA; a grey profile would no longer fit, and is then ignored
        layers = image.convert("RGBA")
        transform = srgb_transform(profile, "RGB") if profile else None
        colors = layers.convert("RGB")
        canvas = Image.new("RGB", image.size, background)
        canvas.paste(apply(colors, transform) if transform else colors, mask=layers.getchannel("A"))
        return np.array(canvas), None, False
    if image.mode == "CMYK" and not adobe:
        image = Image.eval(image, lambda value: 255 - value)
    if image.mode in ("L", "CMYK") and profile:
        transform = srgb_transform(profile, image.mode)
        if transform is not None:
            return np.array(apply(image, transform)), None, True
    colors = image.convert("RGB")
    return np.array(colors), srgb_transform(profile, "RGB") if profile else None, True
