import io

import numpy as np
from PIL import Image

from controlmill.reasons import Reason
from controlmill.testing.pictures import photo
from tasks.annotators.canny import Canny, CannyOptions
from tasks.annotators.maps import make_map, make_maps


def test_a_map_is_stored_without_loss_with_its_columns() -> None:
    canny, image = Canny(CannyOptions()), photo(128, 64)
    made = make_map(canny, image, "000000003")
    assert made.encoded is not None
    assert made.reason is None
    (annotation,) = canny([image], ["000000003"])
    assert (np.array(Image.open(io.BytesIO(made.encoded))) == annotation.map).all()
    assert made.columns == annotation.columns


def test_a_failure_is_a_reason_without_a_map() -> None:
    made = make_map(Canny(CannyOptions()), np.zeros((8, 8, 2), np.uint8), "000000003")
    assert (made.encoded, made.columns, made.reason) == (None, {}, Reason.ANNOTATOR_ERROR)


def test_many_at_once_are_the_same_and_in_order() -> None:
    canny = Canny(CannyOptions())
    images = [photo(64, 64, seed=seed) for seed in range(3)] + [np.zeros((8, 8, 2), np.uint8)]
    keys = [str(row) for row in range(4)]
    assert make_maps(canny, images, keys) == [make_map(canny, *pair) for pair in zip(images, keys, strict=True)]
