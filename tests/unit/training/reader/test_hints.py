"""Maps as their annotator would make them of what is seen: not drawn, not mirrored."""

import cv2
import numpy as np
import pytest

from storage.people import BODY
from training.reader.geometry import View
from training.reader.hints import HintKind
from training.reader.rows import StoredHint

IDS = np.arange(32, dtype=np.uint8).reshape(4, 8)
TWICE = View(resized=(16, 8), target=(8, 8), left=4, top=0, flipped=False)


def stored(people: list[dict[str, object]] | None = None) -> StoredHint:
    return StoredHint(cv2.imencode(".png", IDS)[1].tobytes(), people)


def test_class_ids_stay_ids() -> None:
    made = HintKind("segmentation", "class_ids", has_people=False).as_made(stored(), TWICE)
    assert np.array_equal(made, IDS.repeat(2, axis=0).repeat(2, axis=1)[:, 4:12])


def test_people_move_with_the_cut_and_what_was_not_found_stays_zero() -> None:
    found = [[3.0, 1.0, 0.9], [0.0, 0.0, 0.0], [5.5, 2.0, 0.4]]
    points = [value for point in [*found, *[[0.0] * 3] * 15] for value in point]
    (person,) = HintKind("poses", "map", has_people=True).as_made(stored([{BODY: points, "score": 1.0}]), TWICE)
    assert person["score"] == 1.0
    assert person[BODY][:9] == pytest.approx([2.0, 2.0, 0.9, 0.0, 0.0, 0.0, 7.0, 4.0, 0.4])
    assert set(person[BODY][9:]) == {0.0}
    assert HintKind("poses", "map", has_people=True).as_made(stored(None), TWICE) == []
