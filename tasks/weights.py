"""The weights of all units of a run at once, before any work starts."""

from collections.abc import Callable, Iterable
from functools import partial

from storage.weights.resolve import resolve, together
from tasks.annotators.base import Annotator
from tasks.captioners.model import find_model, is_on_hub, model_files


def find_all_weights(annotators: Iterable[Annotator], caption_model: str | None = None) -> None:
    """Have the weights of all annotators on this machine, and those of a captioner's model where it is named.

    Raises:
        WeightsMissingError: one error for all that are not there and cannot be had.
        WeightsUnusableError: a file is not what it should be.
    """
    units = list(annotators)
    own = [unit for unit in units if getattr(unit.options, "weights", None) is not None]
    published = [file for unit in units if unit not in own for file in unit.needed_weights()]
    finders: list[Callable[[], object]] = [unit.find_weights for unit in own]
    if caption_model is not None and is_on_hub(caption_model):
        published += model_files(caption_model)
    elif caption_model is not None:
        finders.append(partial(find_model, caption_model))
    together(partial(resolve, list(dict.fromkeys(published))), *finders)
    for unit in units:
        unit.find_weights()
