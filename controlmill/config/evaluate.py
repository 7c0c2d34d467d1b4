"""What `controlmill evaluate` measures."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator, model_validator

from controlmill.config.base import Options


class EvaluateOptions(Options):
    """What is measured."""

    controlnet: str = Field(min_length=1)
    """Folder of a run, or a ControlNet: a folder in diffusers' layout, or owner/name on the hub."""
    train_data_dir: str | None = None
    """Dataset whose held-out rows give hints, prompts and real images; by default that of the run."""
    condition: tuple[str, ...] = ()
    """Layers that hold the hints; by default those of the run."""
    pretrained_model_name_or_path: str | None = None
    """Base in diffusers' layout, a folder or owner/name on the hub; by default that of the run."""
    revision: str | None = None
    """Commit, branch or tag of the base on the hub."""
    variant: str | None = None
    """Kind of the base's files, as "fp16"."""
    resolution: PositiveInt | None = None
    """Height and width of the images in pixels; by default those of the run, else 512."""
    num_rows: Annotated[int, Field(ge=2)] = 32
    """Rows that images are generated for; fewer where fewer are held out."""
    out: str | None = None
    """File for the measurement as JSON, with the pictures as .png beside it; by default evaluation.json in the run."""

    @field_validator("condition", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _out_is_json(self) -> Self:
        if self.out is not None and not self.out.endswith(".json"):
            raise ValueError(f"out: give a file that ends in .json, not {self.out!r}")
        return self


class EvaluationSamplerOptions(Options):
    """How images are generated: DDIM, with classifier-free guidance."""

    num_inference_steps: PositiveInt = 20
    """Steps of DDIM."""
    guidance_scale: NonNegativeFloat = 2.0
    """Strength of classifier-free guidance; 1 and less is without."""
    seed: int = 0
    """Seed of all noise."""
    batch_size: PositiveInt = 4
    """Images that are generated at once."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Precision of the weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run."""


class EvaluateConfig(EvaluateOptions, EvaluationSamplerOptions):
    """Everything that `controlmill evaluate` and the flow `evaluate_controlnet` take."""
