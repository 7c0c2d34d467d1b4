"""How images are generated with a ControlNet."""

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from controlmill.config.base import Options

PromptKind = Literal["none", "default", "automatic", "own"]


class SampleOptions(Options):
    """What is generated."""

    controlnet: str = Field(min_length=1)
    """ControlNet: RUN/controlnet, another folder in diffusers' layout, or owner/name on the hub."""
    output: str = Field(min_length=1)
    """Folder for the images and their grid."""
    pretrained_model_name_or_path: str | None = None
    """Base in diffusers' layout; by default the one that RUN/config.json names."""
    revision: str | None = None
    """Commit, branch or tag of the base on the hub."""
    variant: str | None = None
    """Kind of the base's files, as "fp16"."""
    hint: tuple[str, ...] = ()
    """Hints: image files, drawn as the layer has them; the files of several conditions are joined by +: a.png+b.png."""
    dataset: str | None = None
    """Dataset whose held-out rows give hints and captions, instead of files."""
    condition: tuple[str, ...] = ()
    """Layers of the dataset that the hints are taken from."""
    num_rows: PositiveInt = 4
    """Rows taken from the dataset."""
    resolution: PositiveInt | None = None
    """Shorter side of the images in pixels; by default that of the hint, of a dataset 512."""


class PromptOptions(Options):
    """What is said of the images."""

    prompt: str | None = None
    """Your own prompt, for all hints."""
    prompt_kinds: tuple[PromptKind, ...] = ()
    """Which prompts: none, default, automatic (the caption of the dataset), own. By default own, or none."""
    default_prompt: str = "a professional, detailed, high-quality image"
    """The prompt of kind default."""
    added_prompt: str = ""
    """Put behind every prompt that is not empty, after a comma."""
    negative_prompt: str = ""
    """What guidance leads away from."""


class SamplerOptions(Options):
    """DDIM, with classifier-free guidance."""

    num_images: PositiveInt = 1
    """Images per hint and prompt."""
    num_inference_steps: PositiveInt = 20
    """Steps of DDIM."""
    guidance_scale: NonNegativeFloat = 9.0
    """Strength of classifier-free guidance; 1 and less is without."""
    eta: float = Field(default=0.0, ge=0, le=1)
    """Noise added in each step: 0 is DDIM, 1 is DDPM."""
    seed: int = 0
    """Seed of all noise."""
    control_strength: NonNegativeFloat = 1.0
    """Factor on what the ControlNet gives."""
    guess_mode: bool = False
    """Control only the branch with the prompt, finer levels less: 0.825^(12 - i); for no prompt, guidance 3-5."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Precision of the weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run."""
    low_vram: bool = False
    """Keep only the network that is at work on the GPU, the others in main memory."""


class SampleConfig(SampleOptions, PromptOptions, SamplerOptions):
    """Everything that `controlmill sample` takes."""

    @property
    def kinds(self) -> tuple[PromptKind, ...]:
        """The kinds of prompts, in their order."""
        return self.prompt_kinds or (("none",) if self.prompt is None else ("own",))

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if bool(self.hint) == (self.dataset is not None):
            raise ValueError("give hint, or dataset and condition")
        if (self.dataset is not None) != bool(self.condition):
            raise ValueError("condition: goes with dataset; it names the layers that hints are taken from")
        if "automatic" in self.kinds and self.dataset is None:
            raise ValueError("prompt_kinds: automatic prompts are a dataset's captions; give dataset and condition")
        if "own" in self.kinds and self.prompt is None:
            raise ValueError("prompt_kinds: own goes with prompt")
        return self
