"""Bytes to pixels: refused by the header where they must be, else decoded once."""

from dataclasses import dataclass

from PIL import ImageCms

from controlmill.config.image import ImageOptions
from controlmill.reasons import Reason, RowFailure
from storage.stored_image import decode_stored
from tasks.images.color import srgb_transform
from tasks.images.exif import exif_json, orientation, upright
from tasks.images.formats import Picture, decode_picture, header_size
from tasks.images.jpeg import dct_factor, decode_jpeg, is_simple, read_markers
from tasks.images.plan import plan_resize
from tasks.images.sniff import Format, image_format, looks_like
from tasks.images.types import Pixels

__all__ = ["Decoded", "check_size", "decode", "decode_stored"]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture as RGB uint8 (height, width, 3), upright, transparent parts over the background colour."""

    pixels: Pixels
    """May be smaller than the original where the resized picture is at most half of it, never smaller than that."""
    original_width: int
    original_height: int
    """Size of the original, upright."""
    format: Format
    exif: str | None
    transform: ImageCms.ImageCmsTransform | None
    """From the embedded profile to sRGB, still to be applied: after resizing it costs least."""
    plain: bool
    """The file holds nothing but these pixels as RGB8, so that its bytes may stand for them."""


def decode(data: bytes, options: ImageOptions) -> Decoded | RowFailure:
    """Decode a downloaded file, after its header has been checked against the limits of the options."""
    if not data:
        return RowFailure(Reason.EMPTY, "the file has no bytes")
    kind = image_format(data)
    if kind is None:
        return RowFailure(Reason.NOT_AN_IMAGE, f"not an image, but {looks_like(data)}")
    try:
        return _decode_jpeg(data, options) if kind == "jpg" else _decode_other(data, kind, options)
    except MemoryError:
        # the machine's trouble, not the picture's
        raise
    except Exception as error:  # noqa: BLE001  one row's edge: a stranger's file makes decoders raise anything
        cause = " ".join(str(error).split()) or type(error).__name__
        return RowFailure(Reason.CORRUPT_IMAGE, f"cannot decode this {kind}: {cause}")


def _decode_jpeg(data: bytes, options: ImageOptions) -> Decoded | RowFailure:
    markers = read_markers(data)
    turned = orientation(markers.exif) if markers.exif else 1
    width, height = (markers.height, markers.width) if turned > 4 else (markers.width, markers.height)
    refused = check_size(width, height, options)
    if refused:
        return refused
    # a grey picture with a profile needs its own way to sRGB
    if not is_simple(markers) or (markers.num_channels == 1 and markers.profile):
        picture = decode_picture(data, "jpg", options, adobe=markers.adobe)
        return _decoded(picture, (width, height), "jpg", options)
    plan = plan_resize(width, height, options)
    if isinstance(plan, RowFailure):
        return plan
    needed = (plan.height, plan.width) if turned > 4 else (plan.width, plan.height)
    factor = dct_factor(markers.width, markers.height, needed) if plan.smooth else 1
    pixels = upright(decode_jpeg(data, (markers.width, markers.height), factor), turned)
    transform = srgb_transform(markers.profile, "RGB") if markers.profile and markers.num_channels == 3 else None
    plain = turned == 1 and transform is None and markers.num_channels == 3
    exif = exif_json(markers.exif) if options.extract_exif else None
    return Decoded(pixels, width, height, "jpg", exif, transform, plain)


def _decode_other(data: bytes, kind: Format, options: ImageOptions) -> Decoded | RowFailure:
    # the limits do not tell width from height, so the stored size is as good as the upright one
    refused = check_size(*header_size(data, kind), options)
    if refused:
        return refused
    picture = decode_picture(data, kind, options)
    height, width = picture.pixels.shape[:2]
    return _decoded(picture, (width, height), kind, options)


def _decoded(picture: Picture, size: tuple[int, int], kind: Format, options: ImageOptions) -> Decoded:
    exif = exif_json(picture.exif) if options.extract_exif else None
    return Decoded(picture.pixels, *size, kind, exif, picture.transform, picture.plain)


def check_size(width: int, height: int, options: ImageOptions) -> RowFailure | None:
    """What the options say against a picture that claims this size, before anything is allocated for it."""
    short, long = sorted((width, height))
    if short < 1:
        return RowFailure(Reason.CORRUPT_IMAGE, f"the header claims {width}x{height} pixels")
    limit = min(options.max_source_pixels, options.max_image_area)
    if width * height > limit:
        name = "max_source_pixels" if limit == options.max_source_pixels else "max_image_area"
        return RowFailure(
            Reason.TOO_MANY_PIXELS, f"{width}x{height} is {width * height} pixels, more than {name} {limit:.0f}"
        )
    if short < options.min_image_size:
        return RowFailure(Reason.TOO_SMALL, f"{width}x{height} is under min_image_size {options.min_image_size}")
    if long > options.max_aspect_ratio * short:
        return RowFailure(
            Reason.BAD_ASPECT_RATIO,
            f"{width}x{height} is {long / short:.2f} to 1, more than max_aspect_ratio {options.max_aspect_ratio:g}",
        )
    return None
