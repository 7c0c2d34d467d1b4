import cv2
import numpy as np
import pytest

from controlmill.config.base import validate
from controlmill.errors import ConfigError
from controlmill.testing.pictures import photo
from tasks.annotators.base import Annotation
from tasks.annotators.canny import Canny, CannyOptions


def annotated(canny: Canny, image: np.ndarray, key: str = "000000000") -> Annotation:
    (made,) = canny([image], [key])
    assert isinstance(made, Annotation)
    return made


def test_is_opencvs_canny_of_the_rgb_pixels() -> None:
    image = photo(512, 384)
    made = annotated(Canny(CannyOptions()), image)
    assert (made.map == cv2.Canny(image, 100, 200)).all()
    assert set(np.unique(made.map)) == {0, 255}
    assert made.columns == {"low_threshold": 100, "high_threshold": 200, "empty": False}


def test_a_picture_without_an_edge_is_flagged() -> None:
    made = annotated(Canny(CannyOptions()), np.full((64, 64, 3), 90, np.uint8))
    assert made.columns["empty"] is True
    assert "empty" in Canny.flags


def test_thresholds_are_drawn_from_seed_and_key_and_are_the_ones_used() -> None:
    options = CannyOptions(low_threshold=(50, 150), high_threshold=(100, 300))
    image = photo(128, 96)
    keys = [f"{row:09d}" for row in range(200)]
    rows = [annotated(Canny(options, seed=1), image, key) for key in keys]
    for row in rows:
        low, high = row.columns["low_threshold"], row.columns["high_threshold"]
        assert 50 <= low <= 150
        assert max(100, low) <= high <= 300
        assert (row.map == cv2.Canny(image, low, high)).all()
    assert len({row.columns["high_threshold"] for row in rows}) > 80
    other = [annotated(Canny(options, seed=2), image, key).columns for key in keys]
    assert other != [row.columns for row in rows]


def test_a_number_is_a_range_of_one() -> None:
    assert validate(CannyOptions, {"low_threshold": 40}).low_threshold == (40, 40)
    assert validate(CannyOptions, {"low_threshold": [40, 60]}).low_threshold == (40, 60)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"low_threshold": 300}, "low_threshold: 300 is above the lowest high_threshold, 200"),
        ({"low_threshold": [60, 40]}, "low_threshold: a threshold is a whole number"),
        ({"high_threshold": 5000}, "from 0 to 2040"),
        ({"high_threshold": 150.5}, "high_threshold"),
        ({"high_threshold": True}, "high_threshold"),
        ({"low_treshold": 3}, "low_treshold: there is no such option"),
    ],
)
def test_impossible_thresholds_are_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(CannyOptions, values)
