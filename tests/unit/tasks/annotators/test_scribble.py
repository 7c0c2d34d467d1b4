from collections.abc import Callable

import cv2
import numpy as np
import pytest

from controlmill.config.base import validate
from controlmill.errors import ConfigError
from controlmill.testing.pictures import photo
from tasks.annotators.base import Annotation, Annotator
from tasks.annotators.registry import create
from tasks.annotators.scribble import ScribbleOptions

Ready = Callable[..., Annotator]


def annotated(annotator: Annotator, image: np.ndarray, key: str = "0") -> Annotation:
    (made,) = annotator([image], [key])
    assert isinstance(made, Annotation), made
    return made


@pytest.mark.parametrize("safe", [False, True])
def test_from_hed_it_is_hed_as_scribble(ready: Ready, *, safe: bool) -> None:
    image = photo(192, 128)
    scribble = annotated(ready("scribble", safe=safe), image)
    assert (scribble.map == annotated(ready("hed", scribble=True, safe=safe), image).map).all()
    assert scribble.columns == {"empty": False}


def test_from_canny_it_is_wide_strokes_along_the_edges_and_needs_no_weights() -> None:
    image = np.full((96, 96, 3), 40, np.uint8)
    cv2.rectangle(image, (24, 24), (72, 72), (220, 220, 220), -1)
    scribble = create("scribble", {"source": "canny"})
    assert scribble.needed_weights() == ()
    assert scribble.recipe() == {
        "source": "canny", "low_threshold": [100, 100], "high_threshold": [200, 200], "seed": 0,
    }  # fmt: skip
    scribble.setup()
    made = annotated(scribble, image)
    assert set(np.unique(made.map)) == {0, 255}
    assert made.map[48, 24] == made.map[24, 48] == 255
    assert made.map[48, 48] == made.map[4, 4] == 0
    assert 10 <= np.flatnonzero(made.map[48, :48]).size <= 20
    assert annotated(scribble, np.zeros_like(image)).columns == {"empty": True}


def test_thresholds_are_drawn_per_row() -> None:
    scribble = create("scribble", {"source": "canny", "low_threshold": [10, 200], "high_threshold": [200, 900]}, seed=3)
    scribble.setup()
    image = photo(96, 96)
    maps = {annotated(scribble, image, str(key)).map.tobytes() for key in range(8)}
    assert len(maps) > 4


def test_options_of_the_other_source_do_not_count(make: Ready) -> None:
    assert make("scribble").recipe().keys() & {"safe", "low_threshold", "high_threshold"} == {"safe"}
    assert "safe" not in create("scribble", {"source": "canny"}).recipe()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low_threshold": 50}, "low_threshold: it is for source canny, not hed; leave it out, or say source=canny"),
        ({"source": "hed", "high_threshold": [190, 300]}, "high_threshold: it is for source canny, not hed"),
        ({"source": "canny", "safe": True}, "safe: it is for source hed, not canny; leave it out, or say source=hed"),
        ({"source": "canny", "weights": "w"}, "weights: it is for source hed, not canny"),
    ],
)
def test_options_of_the_other_source_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^annotator_options\.scribble\.{message}"):
        create("scribble", options)


def test_impossible_thresholds_are_refused() -> None:
    with pytest.raises(ConfigError, match="low_threshold: 300 is above the lowest high_threshold, 200"):
        validate(ScribbleOptions, {"source": "canny", "low_threshold": 300})
