"""The weights of several annotators at once, before any work starts."""

from collections.abc import Iterable

from storage.weights.resolve import resolve
from tasks.annotators.base import Annotator


def find_all_weights(annotators: Iterable[Annotator]) -> None:
    """Have the weights of all annotators on this machine.

    Raises:
        WeightsMissingError: one error for all that are not there and cannot be had.
        WeightsUnusableError: a file is not what it should be.
    """
    units = list(annotators)
    published = [unit for unit in units if getattr(unit.options, "weights", None) is None]
    resolve(list(dict.fromkeys(file for unit in published for file in unit.needed_weights())))
    for unit in units:
        unit.find_weights()
