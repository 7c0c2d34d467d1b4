"""Which layers are made from the images."""

from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from controlmill.config.base import Options


class LayerOptions(Options):
    """Which layers are made from the images."""

    annotators: tuple[str, ...] = ()
    """Annotators to run, each a layer of its name."""
    annotator_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Options of an annotator by its name: {"canny": {"low_threshold": [50, 120]}}."""
    seed: int = 0
    """Seed of everything that is drawn per row."""

    @field_validator("annotators")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names))

    @model_validator(mode="after")
    def _options_are_used(self) -> Self:
        unused = [name for name in self.annotator_options if name not in self.annotators]
        if unused:
            raise ValueError(
                f"annotator_options: there are options for {', '.join(unused)}, but annotators does not name it"
            )
        return self
