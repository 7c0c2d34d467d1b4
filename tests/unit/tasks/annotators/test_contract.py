"""What every registered annotator must do; a new one is tested here without another line."""

import pickle

import numpy as np
import pytest

from controlmill.reasons import RowFailure
from controlmill.testing.pictures import photo
from tasks.annotators.base import Annotation, Annotator
from tasks.annotators.registry import create, names

SIZES = ((64, 128), (512, 384), (100, 37))


@pytest.fixture(params=names())
def annotator(request: pytest.FixtureRequest) -> Annotator:
    made = create(request.param, {}, seed=7)
    made.setup("cpu")
    return made


def _same(left: object, right: object) -> bool:
    assert isinstance(left, Annotation)
    assert isinstance(right, Annotation)
    return bool((left.map == right.map).all()) and left.columns == right.columns


@pytest.mark.parametrize("size", SIZES)
def test_a_map_has_its_images_geometry(annotator: Annotator, size: tuple[int, int]) -> None:
    (made,) = annotator([photo(*size)], ["000000000"])
    assert isinstance(made, Annotation)
    assert made.map.shape == (size[1], size[0]) if annotator.channels == 1 else (size[1], size[0], 3)
    assert made.map.dtype == np.uint8


def test_columns_and_flags_are_declared(annotator: Annotator) -> None:
    (made,) = annotator([photo(64, 64)], ["000000000"])
    assert isinstance(made, Annotation)
    declared = {field.name: field.type for field in annotator.columns()}
    assert made.columns.keys() == declared.keys()
    assert all(str(declared[flag]) == "bool" for flag in annotator.flags)


def test_a_row_is_the_same_alone_and_in_a_batch_and_again(annotator: Annotator) -> None:
    images = [photo(*size, seed=seed) for size in SIZES for seed in range(3)]
    keys = [f"{row:09d}" for row in range(len(images))]
    together = annotator(images, keys)
    backwards = annotator(images[::-1], keys[::-1])[::-1]
    for image, key, batched, reversed_ in zip(images, keys, together, backwards, strict=True):
        assert _same(annotator([image], [key])[0], batched)
        assert _same(batched, reversed_)


def test_a_failing_image_leaves_the_others(annotator: Annotator) -> None:
    spoiled = np.zeros((64, 128, 2), np.uint8)
    images = [photo(128, 64, seed=1), spoiled, photo(128, 64, seed=2)]
    first, failure, last = annotator(images, ["0", "1", "2"])
    assert isinstance(first, Annotation)
    assert isinstance(last, Annotation)
    assert isinstance(failure, RowFailure)
    assert failure.reason == "annotator_error"
    assert failure.message


def test_images_are_not_written_to(annotator: Annotator) -> None:
    image = photo(128, 64)
    before = image.copy()
    annotator([image], ["0"])
    assert (image == before).all()


def test_it_travels_to_a_worker_before_it_is_set_up(annotator: Annotator) -> None:
    sent = pickle.loads(pickle.dumps(create(annotator.name, {}, seed=7)))  # noqa: S301  our own bytes
    sent.setup("cpu")
    image = photo(128, 64)
    assert _same(sent([image], ["3"])[0], annotator([image], ["3"])[0])
    assert sent.recipe() == annotator.recipe()


def test_an_empty_batch_is_an_empty_list(annotator: Annotator) -> None:
    assert annotator([], []) == []


def test_it_says_what_a_reader_must_know(annotator: Annotator) -> None:
    metadata = annotator.metadata()
    assert metadata["polarity"] in {"white_on_black", "black_on_white", "none"}
    assert metadata["channels"] in {"1", "3"}
    assert annotator.resources.num_cpus > 0
