"""Which layers are made from the images."""

from typing import Any

from pydantic import Field

from controlmill.config.base import Options


class LayerOptions(Options):
    """Which layers are made from the images."""

    annotators: tuple[str, ...] = ()
    """Annotators to run, each a layer of its name."""
    annotator_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Options of an annotator by its name: {"canny": {"low_threshold": [50, 120]}}."""
    seed: int = 0
    """Seed of everything that is drawn per row."""
