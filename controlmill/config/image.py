"""What becomes of a pulled image: size, mode, encoding."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from controlmill.config.base import Options

Interpolation = Literal["nearest", "linear", "bilinear", "cubic", "bicubic", "area", "lanczos", "lanczos4"]
Channel = Annotated[int, Field(ge=0, le=255)]


class ImageOptions(Options):
    """What becomes of a pulled image."""

    image_size: PositiveInt = 512
    """Side of the output in pixels (img2dataset: 256)."""
    resize_mode: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"] = "center_crop"
    """How to reach it (img2dataset: border, which bakes white bars into training images)."""
    resize_only_if_bigger: bool = False
    """Do not enlarge images that are smaller than image_size."""
    size_multiple: PositiveInt = 64
    """Height and width are cropped to multiples of this in every mode but "no"; Stable Diffusion needs 64."""
    upscale_interpolation: Interpolation = "lanczos"
    """Interpolation when enlarging."""
    downscale_interpolation: Interpolation = "area"
    """Interpolation when shrinking."""
    background_color: tuple[Channel, Channel, Channel] = (255, 255, 255)
    """RGB colour under transparent pixels, and of the bars of resize_mode border."""
    encode_format: Literal["jpg", "png", "webp"] = "jpg"
    """Format of the stored image."""
    encode_quality: int | None = None
    """Quality 0-100 for jpg and webp (default 95), compression 0-9 for png (default 6)."""
    skip_reencode: bool = False
    """Keep the downloaded bytes where the stored pixels would be the same: same size, format, upright, plain RGB."""
    min_image_size: NonNegativeInt = 0
    """Images whose shorter side is smaller are dropped."""
    max_image_area: PositiveFloat = float("inf")
    """Images with more pixels are dropped."""
    max_aspect_ratio: PositiveFloat = float("inf")
    """Images whose longer side is more than this many times the shorter one are dropped."""
    max_source_pixels: PositiveInt = 178_956_970
    """Images that claim more pixels are refused before they are decoded (decompression bombs)."""
    extract_exif: bool = True
    """Store EXIF tags as a JSON column."""

    @field_validator("resize_mode", mode="before")
    @classmethod
    def _yaml_no(cls, value: object) -> object:
        """YAML reads an unquoted `no` as false."""
        return "no" if value is False else value

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.resize_mode != "no" and self.image_size % self.size_multiple:
            raise ValueError(
                f"image_size: {self.image_size} is not a multiple of size_multiple {self.size_multiple}; "
                "Stable Diffusion trains on multiples of 64 (size_multiple=1 lifts this)"
            )
        top = 9 if self.encode_format == "png" else 100
        if self.encode_quality is not None and not 0 <= self.encode_quality <= top:
            raise ValueError(f"encode_quality: {self.encode_format} takes 0 to {top}, not {self.encode_quality}")
        if self.max_aspect_ratio < 1:
            raise ValueError(f"max_aspect_ratio: must be at least 1, not {self.max_aspect_ratio}")
        return self

    @property
    def quality(self) -> int:
        """The encode quality in force for the encode format."""
        if self.encode_quality is not None:
            return self.encode_quality
        return 6 if self.encode_format == "png" else 95
