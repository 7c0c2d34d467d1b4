"""What an annotator may return by mistake is the failure of its rows, never an error of the shard."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from controlmill.config.base import Options
from controlmill.reasons import Reason, RowFailure
from storage.schema import layer_schema
from tasks.annotators.base import Annotation, Annotator
from tasks.annotators.maps import make_maps
from tasks.images.types import Pixels
from tasks.rows import map_batch

GREY = np.full((4, 6), 7, np.uint8)
IMAGES = [np.zeros((4, 6, 3), np.uint8)] * 2
KEYS = ["0", "1"]


class Own(Annotator):
    """Somebody's annotator, which returns what a test gives it."""

    name = "own"
    version = "1"
    options_model = Options
    batch_size = 4
    flags = ("dark",)

    def __init__(self, made: Any) -> None:
        super().__init__(Options())
        self.made = made

    @classmethod
    def columns(cls) -> list[pa.Field]:
        """A number and some numbers beside the flag."""
        return [pa.field("level", pa.int32()), pa.field("parts", pa.list_(pa.float32())), *super().columns()]

    def annotate(self, images: Sequence[Pixels], keys: Sequence[str]) -> Any:
        del keys
        return self.made(len(images))


def good(**columns: Any) -> Annotation:
    return Annotation(GREY, {"level": 3, "parts": [0.5], "dark": True, **columns})


def stored(made: Any) -> list[str]:
    """What the failures say of rows that go the whole way to a batch that is written."""
    unit = Own(made)
    maps = make_maps(unit, IMAGES, KEYS)
    batch = map_batch(KEYS, maps, layer_schema(unit.columns(), unit.metadata()))
    assert batch.column("reason").to_pylist() == [one.reason for one in maps]
    assert {one.reason for one in maps} <= {None, Reason.ANNOTATOR_ERROR}
    return [one.message for one in maps]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda num: np.zeros((num, 4, 6), np.uint8), "own: annotate returned a numpy.ndarray, not a list of "),
        (lambda _num: None, "own: annotate returned None, not a list of an Annotation for each image"),
        (lambda num: (good() for _ in range(num)), "own: annotate returned a generator, not a list of "),
        (lambda num: [good()] * (num - 1), "own: 1 annotations of 2 images; annotate must return one for each image"),
        (lambda num: [good()] * (num + 1), "own: 3 annotations of 2 images"),
        (lambda num: [GREY] * num, "own: annotate returned a numpy.ndarray for an image, not an Annotation"),
        (lambda num: [None] * num, "own: annotate returned None for an image, not an Annotation"),
        (lambda num: [Annotation([[1]])] * num, "own: the map is a list, not a numpy array of uint8 (4, 6)"),
        (lambda num: [Annotation(None)] * num, "own: the map is None, not a numpy array of uint8 (4, 6)"),
        (lambda num: [Annotation(GREY[:3])] * num, "own: the map is uint8 of shape (3, 6), not uint8 of (4, 6) as "),
        (lambda num: [Annotation(GREY.astype(float))] * num, "own: the map is float64 of shape (4, 6), not uint8 of "),
        (lambda num: [Annotation(GREY, None)] * num, "own: columns are None, not a dict of level, parts, dark"),
        (lambda num: [Annotation(GREY)] * num, "own: columns [], not ['dark', 'level', 'parts'] as it declares"),
        (lambda num: [good(level="high")] * num, "own: column level: 'high' cannot be stored as int32, as it declares"),
        (lambda num: [good(level=2**40)] * num, "own: column level: 1099511627776 cannot be stored as int32"),
        (lambda num: [good(dark=GREY)] * num, "own: column dark: array([[7, 7,"),
        (lambda num: [good(parts=3)] * num, "own: column parts: 3 cannot be stored as list<item: float>"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_of_every_row(made: Any, message: str) -> None:
    messages = stored(made)
    assert len(messages) == len(KEYS)
    for one in messages:
        assert one.startswith(message)
        assert "\n" not in one


def test_one_wrong_result_leaves_the_others_of_its_batch() -> None:
    first, second = stored(lambda _num: [good(level="high"), good()])
    assert "column level" in first
    assert second == ""


def test_a_class_whose_columns_cannot_be_asked_is_a_failure_too() -> None:
    class Broken(Own):
        @classmethod
        def columns(cls) -> list[pa.Field]:
            """What fails."""
            raise ZeroDivisionError("no columns today")

    made = Broken(lambda num: [good()] * num)(IMAGES, KEYS)
    assert [one.message for one in made if isinstance(one, RowFailure)] == ["ZeroDivisionError: no columns today"] * 2


@pytest.mark.parametrize(
    "columns", [{"level": np.int64(4)}, {"level": None}, {"dark": np.bool_(True)}, {"parts": np.ones(3, np.float32)}]
)
def test_numpys_numbers_and_null_are_stored(columns: dict[str, Any]) -> None:
    assert stored(lambda num: [good(**columns)] * num) == ["", ""]
