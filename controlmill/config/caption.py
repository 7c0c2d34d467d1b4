"""How the images of a dataset are described in words."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from controlmill.config.base import Options, validate
from controlmill.errors import ConfigError


class CaptionOptions(Options):
    """How the images are described in words."""

    captioner: Literal["blip", "lavis"]
    """What writes the captions: blip (transformers), or lavis (salesforce-lavis, in an environment of its own)."""
    model: str = Field(default="Salesforce/blip-image-captioning-base", min_length=1)
    """BLIP weights: a folder in transformers' or LAVIS's form, or owner/name or owner/name@revision on the hub."""
    prompt: str = "a picture of"
    """Words that every caption goes on from; they are not part of it. Empty for none."""
    batch_size: PositiveInt = 16
    """Images that are described at once."""
    num_beams: PositiveInt = 3
    """Beams of the search for the likeliest caption; 1 takes the likeliest word each time."""
    max_new_tokens: PositiveInt = 26
    """Longest caption in tokens, prompt not counted (LAVIS's own default: 30 with the 4 of its prompt)."""
    min_new_tokens: NonNegativeInt = 6
    """Shortest caption in tokens, prompt not counted (LAVIS's own default: 10 with the 4 of its prompt)."""
    do_sample: bool = False
    """Draw the words (nucleus sampling) instead of searching for the likeliest caption; num_beams is not used then."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Drawn words come from the likeliest ones that together have this probability."""
    temperature: PositiveFloat = 1.0
    """Probabilities of drawn words are flattened above 1 and sharpened below."""
    seed: int = 0
    """Seed of the words that are drawn, together with each row's key."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens: {self.min_new_tokens} is above max_new_tokens, {self.max_new_tokens}")
        if self.captioner == "lavis" and self.do_sample and self.temperature != 1:
            raise ValueError(f"temperature: LAVIS draws at 1 only, not {self.temperature:g}; use captioner blip")
        return self


class CaptionerOptions(Options):
    """Whether a build describes its images in words, too."""

    captioner: Literal["blip", "lavis"] | None = None
    """Also make the layer `caption`, with blip or lavis; none by default."""
    captioner_options: dict[str, Any] = Field(default_factory=dict)
    """Options of the captioner, as `controlmill caption` has them: {"model": "FOLDER", "num_beams": 5}."""

    @model_validator(mode="after")
    def _valid(self) -> Self:
        self.caption_options()
        return self

    def caption_options(self, seed: int = 0) -> CaptionOptions | None:
        """The captioner's options, None where there is none; `seed` is used where they have none of their own.

        Raises:
            ConfigError: one of them is wrong, or there are options and no captioner.
        """
        if self.captioner is None:
            if self.captioner_options:
                raise ConfigError("captioner_options: there are options, but captioner names none")
            return None
        values = {"seed": seed, **self.captioner_options, "captioner": self.captioner}
        return validate(CaptionOptions, values, prefix="captioner_options.")
