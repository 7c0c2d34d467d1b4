"""What a ControlNet is trained on: layers, geometry, captions, order."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from controlmill.config.base import Options
from controlmill.config.build import DatasetOptions
from controlmill.config.engine import EngineOptions

Share = Annotated[float, Field(ge=0, le=1)]
PIXELS_PER_LATENT = 8
"""Pixels along each side of one latent of every Stable Diffusion."""


class GeometryOptions(Options):
    """What is cut out of a stored image; hint, latents and image alike."""

    resolution: PositiveInt = 512
    """Height and width that is trained on, in pixels; images whose shorter side differs are resized."""
    center_crop: bool = True
    """Cut out the middle; otherwise each visit draws a place, a multiple of 8 pixels from the top and left edges."""
    random_flip: bool = False
    """Mirror image and hint left to right in half of the visits; people are drawn anew, left and right exchanged."""
    enable_bucket: bool = False
    """Keep aspect ratios: a batch is of one bucket, which has at most resolution x resolution pixels (as in kohya)."""
    min_bucket_reso: PositiveInt = 256
    """Shortest side of a bucket in pixels."""
    max_bucket_reso: PositiveInt = 1024
    """Longest side of a bucket in pixels."""
    bucket_reso_steps: PositiveInt = 64
    """Sides of buckets are multiples of this many pixels."""

    @model_validator(mode="after")
    def _fits_latents(self) -> Self:
        sides = {"resolution": self.resolution}
        if self.enable_bucket:
            sides["bucket_reso_steps"] = self.bucket_reso_steps
        for name, value in sides.items():
            if value % PIXELS_PER_LATENT:
                below = max(PIXELS_PER_LATENT, value - value % PIXELS_PER_LATENT)
                raise ValueError(f"{name}: {value} is not a multiple of {PIXELS_PER_LATENT}, use for example {below}")
        if self.enable_bucket and not self.min_bucket_reso <= self.resolution <= self.max_bucket_reso:
            raise ValueError(
                f"resolution: {self.resolution} is not between min_bucket_reso {self.min_bucket_reso} and "
                f"max_bucket_reso {self.max_bucket_reso}"
            )
        return self


class PromptOptions(Options):
    """Where prompts come from."""

    caption_column: str | None = None
    """Layer, or LAYER.COLUMN, of the prompts; by default the layer caption if there is one, else image.caption."""


class TrainingDataOptions(GeometryOptions, PromptOptions):
    """What a ControlNet is trained on."""

    train_data_dir: str = Field(min_length=1)
    """The dataset: a folder, local path or fsspec URI."""
    condition: tuple[str, ...] = Field(min_length=1)
    """Layers that hold the hints; several are given to the network together."""
    image_column: str = "image"
    """Layer that holds the pictures."""
    proportion_empty_prompts: Share = 0.5
    """Share of visits whose prompt is left out, so that the ControlNet reads the hint itself (diffusers: 0)."""
    keep_empty_hints: bool = False
    """Also train on rows whose hint shows nothing (no edges, nobody, flat depth)."""
    max_train_samples: PositiveInt | None = None
    """Train on this many rows only, drawn by the seed."""
    dataloader_num_workers: PositiveInt = 4
    """Threads that decode ahead of the training step, in each worker."""
    shuffle_streams: PositiveInt = 24
    """Row groups that are open at once and take turns; ranks share them, so let the number of ranks divide it."""
    cached_layers: Literal["auto", "require", "ignore"] = "auto"
    """Whether to use what `controlmill encode` made: auto where it fits, require stops where it does not."""

    @field_validator("condition", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.condition)) != len(self.condition):
            raise ValueError(f"condition: {', '.join(self.condition)} names a layer twice")
        if self.image_column in self.condition:
            raise ValueError(f"condition: {self.image_column} is the layer of the pictures themselves")
        return self


class EncodeOptions(GeometryOptions, PromptOptions):
    """What is encoded once, instead of at every visit."""

    pretrained_model_name_or_path: str = Field(min_length=1)
    """The base in diffusers layout, whose VAE and text encoders are used: a folder, or owner/name on the hub."""
    revision: str | None = None
    """Commit, branch or tag of the base on the hub."""
    variant: str | None = None
    """Kind of the files of weights, for example fp16."""
    batch_size: PositiveInt = 8
    """Images, and prompts, that are encoded at once."""


class EncodeConfig(DatasetOptions, EncodeOptions, EngineOptions):
    """Everything that `controlmill encode` and the flow `encode_dataset` take."""
