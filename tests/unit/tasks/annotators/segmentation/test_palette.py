import numpy as np

from tasks.annotators.network import foreign_imports
from tasks.annotators.segmentation.palette import NUM_CLASSES, draw_classes


def test_colours_are_those_that_controlnet_was_trained_on() -> None:
    with foreign_imports():
        from controlnet_aux.util import ade_palette
    ids = np.arange(NUM_CLASSES, dtype=np.uint8).reshape(10, 15)
    assert (draw_classes(ids) == np.array(ade_palette()).reshape(10, 15, 3)).all()


def test_what_is_no_class_is_black() -> None:
    assert not draw_classes(np.full((2, 3), 200, np.uint8)).any()
