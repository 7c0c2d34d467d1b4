"""Reading generated images back with the annotators that made the layers of a dataset, to measure controllability."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from controlmill.errors import ConfigError, DatasetMismatchError
from controlmill.reasons import RowFailure
from storage.dataset import Dataset
from tasks.annotators import user_file
from tasks.annotators.base import Annotator
from tasks.annotators.registry import PRESETS, create
from tasks.images.types import Pixels

_SCORED = frozenset(
    {
        "canny", "hed", "lineart", "lineart_standard", "midas", "mlsd", "normal_bae", "normal_midas", "openpose",
        "scribble", "segmentation",
    }
)  # fmt: skip
"""Annotators whose maps training knows a score for, by the name of the score."""


class ReadBack:
    """One annotator as training wants it: pickled it is small, loaded it is for the time of a call only."""

    def __init__(self, annotator: Annotator, score: str, made_with: Mapping[str, Any]) -> None:
        """Put together.

        Args:
            annotator: not set up.
            score: by which its maps are compared.
            made_with: options and weights of the layer, as its commit record has them.
        """
        self.score = score
        self._annotator = annotator
        self._made_with = dict(made_with)

    def check(self) -> None:
        """Have the weights here, and see that they are those of the layer.

        Raises:
            WeightsError: they are not to be had.
            DatasetMismatchError: the layer was made with others.
        """
        name = self._annotator.name
        now = self._annotator.recipe()
        differing = [key for key, value in now.items() if key in self._made_with and self._made_with[key] != value]
        if differing:
            raise DatasetMismatchError(
                f"{name}: the layer was made with other {', '.join(differing)} than are here, so images cannot be read "
                "back as it was"
            )

    def __call__(self, images: Sequence[Pixels], keys: Sequence[str], device: str) -> list[Any]:
        """What the layer would hold of the images: maps, or of poses the people.

        Raises:
            ValueError: an image could not be annotated.
            MemoryError: one image alone does not fit into memory.
            DeviceLostError: the GPU cannot be used by this process any more.
        """
        # a copy without anything loaded: weights go when it goes
        unit = copy.copy(self._annotator)
        unit.setup(device)
        made = unit(images, keys)
        annotations = [one for one in made if not isinstance(one, RowFailure)]
        failures = [one for one in made if isinstance(one, RowFailure)]
        if failures:
            raise ValueError(f"{unit.name}: {len(failures)} of {len(images)} images failed: {failures[0].message}")
        return [one.columns["people"] if self.score == "openpose" else one.map for one in annotations]


def read_backs_of(dataset: Dataset, layers: Sequence[str]) -> dict[str, ReadBack]:
    """The annotators of these layers, as far as it is known how they were made and how their maps are compared."""
    description = dataset.read_description()
    known = {} if description is None else description.options
    files: dict[str, str] = known.get("annotator_files", {})
    names = {files.get(name, name): name for name in known.get("annotators", {})}
    found = {}
    for layer in layers:
        score = _score_of(names[layer], known["annotators"][names[layer]]) if layer in names else None
        if score is None:
            continue
        try:
            annotator = create(names[layer], known["annotators"][names[layer]], known.get("seed", 0))
        except ConfigError:
            # options of another version of controlmill: nothing is measured, and the run goes on
            continue
        found[layer] = ReadBack(annotator, score, _made_with(dataset, layer))
    return found


def _score_of(name: str, options: Mapping[str, Any]) -> str | None:
    """The score of an annotator's maps; None for those of other people."""
    if user_file.is_in_file(name):
        return None
    kind, preset = PRESETS.get(name, (name, {}))
    if kind == "hed" and {**preset, **options}.get("scribble"):
        return "scribble"
    return kind if kind in _SCORED else None


def _made_with(dataset: Dataset, layer: str) -> dict[str, Any]:
    committed = dataset.layer(layer).committed()
    record = dataset.layer(layer).record(min(committed)) if committed else None
    return {} if record is None else dict(record.unit.config)
