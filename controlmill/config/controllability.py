"""How well generated images obey their hint: when that is measured, and on what."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveInt

from controlmill.config.base import Options


class ControllabilityOptions(Options):
    """How well generated images obey their hint: when that is measured, and on what."""

    controllability: bool = True
    """Generate images from the probe's hints at the start, at sudden convergence, when it has settled and at the end,
    and read them back with the dataset's annotator."""
    controllability_steps: PositiveInt | None = None
    """Also measure every so many updates; by default not."""
    num_controllability_rows: Annotated[int, Field(ge=2)] | None = None
    """Rows of the probe that images are generated for; by default all, or as many as let four measurements take about
    3 % of the updates, but 8 at least."""
    controllability_num_steps: PositiveInt = 8
    """Steps of DDIM."""
    controllability_guidance_scale: NonNegativeFloat = 2.0
    """Strength of classifier-free guidance; 1 and less is without, which takes half of the time."""
