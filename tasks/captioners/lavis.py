"""BLIP by salesforce-lavis, as the main environment sees it; `lavis_worker` is what runs."""

from pathlib import Path
from typing import Any, ClassVar

from tasks.captioners.base import Captioner
from tasks.captioners.model import weights_file


class Lavis(Captioner):
    """`BlipCaption` of salesforce-lavis 1.0.2 in the environment `blip-lavis`.

    Beams are scored by log-probability over the length with the prompt (transformers 4.26), where `blip` divides by the
    length without it (transformers 5): with one beam both give the same captions, with more they may differ. Drawn
    words have LAVIS's repetition penalty of 1.1 and are drawn one image at a time.
    """

    name: ClassVar[str] = "lavis"
    version: ClassVar[str] = "1"
    environment: ClassVar[str] = "blip-lavis"
    """The isolated environment that it runs in."""

    def arguments(self, device: str) -> dict[str, Any]:
        """What `LavisWorker` is made with: plain values, that any interpreter can read."""
        options = self.options.model_dump(
            include={"prompt", "num_beams", "max_new_tokens", "min_new_tokens", "do_sample", "top_p", "seed"}
        )
        name = weights_file(Path(self.model.path)).name
        return {"folder": self.model.path, "weights_name": name, "options": options, "device": device}
