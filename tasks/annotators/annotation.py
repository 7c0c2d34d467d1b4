"""What an annotator makes of an image, and whether what it returned is that: its code may be anybody's."""

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from controlmill.reasons import Reason, RowFailure
from tasks.images.types import Pixels


@dataclass(frozen=True, slots=True)
class Annotation:
    """What an annotator made of one image."""

    map: NDArray[np.uint8]
    """uint8, (H, W) of one channel or RGB (H, W, 3); H and W are those of the image."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """A value for each of the annotator's columns."""


def checked(
    made: Any, images: Sequence[Pixels], *, name: str, channels: int, columns: Sequence[pa.Field]
) -> list[Annotation | RowFailure]:
    """What the annotator `name` made of `images`; what cannot be stored is a failure that says what it must return.

    Args:
        made: what its `annotate` returned.
        images: what it was given.
        name: of the annotator.
        channels: of its maps.
        columns: as it declares them.
    """
    wrong: str | None = None
    if not isinstance(made, Sequence):
        wrong = f"annotate returned {_kind(made)}, not a list of an Annotation for each image"
    elif len(made) != len(images):
        wrong = f"{len(made)} annotations of {len(images)} images; annotate must return one for each image"
    if wrong:
        return [_failure(name, wrong)] * len(images)
    results: list[Annotation | RowFailure] = []
    for one, image in zip(made, images, strict=True):
        shape = image.shape[:2] if channels == 1 else (*image.shape[:2], channels)
        why = _wrong_map(one, shape) or _wrong_columns(one.columns, columns)
        results.append(_failure(name, why) if why else one)
    return results


def _wrong_map(made: Any, shape: tuple[int, ...]) -> str | None:
    if not isinstance(made, Annotation):
        return f"annotate returned {_kind(made)} for an image, not an Annotation"
    pixels: Any = made.map
    if not isinstance(pixels, np.ndarray):
        return f"the map is {_kind(pixels)}, not a numpy array of uint8 {shape}"
    if pixels.shape != shape or pixels.dtype != np.uint8:
        return f"the map is {pixels.dtype} of shape {pixels.shape}, not uint8 of {shape} as its image has it"
    return None


def _wrong_columns(values: Any, declared: Sequence[pa.Field]) -> str | None:
    if not isinstance(values, Mapping):
        names = ", ".join(column.name for column in declared) or "nothing"
        return f"columns are {_kind(values)}, not a dict of {names}"
    if values.keys() != {column.name for column in declared}:
        return f"columns {sorted(values)}, not {sorted(column.name for column in declared)} as it declares"
    return next((why for column in declared if (why := _wrong_value(values[column.name], column))), None)


def _wrong_value(value: Any, column: pa.Field) -> str | None:
    """Whether it can be stored, asked of what stores it."""
    try:
        pa.array([value], column.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
        text = " ".join(reprlib.repr(value).split())
        return f"column {column.name}: {text} cannot be stored as {column.type}, as it declares"
    return None


def _kind(value: object) -> str:
    kind = type(value)
    if value is None:
        return "None"
    return f"a {kind.__qualname__ if kind.__module__ == 'builtins' else f'{kind.__module__}.{kind.__qualname__}'}"


def _failure(name: str, why: str) -> RowFailure:
    return RowFailure(Reason.ANNOTATOR_ERROR, f"{name}: {why}")
