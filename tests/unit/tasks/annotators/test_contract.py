"""What every registered annotator must do; a new one is tested here without another line."""

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from controlmill.reasons import RowFailure
from controlmill.testing.pictures import photo
from storage.schema import layer_schema
from tasks.annotators.base import Annotation, Annotator
from tasks.annotators.network import NetworkAnnotator
from tasks.annotators.registry import PRESETS, find, names
from tasks.images.encode import encode_map

SIZES = ((64, 128), (37, 96))
ODD_SIZES = (*SIZES, (320, 448), (33, 130))
# A network's kernels may round differently for another number of images at once; measured here with torch 2.12 on CPUs:
# one in the last place of a few values, in MiDaS and M-LSD, of a batch of one beside any other.
LARGEST_SHARE_OF_OTHER_PIXELS = 0.002

UNITS = [name for name in names() if name not in PRESETS]
NETWORKS = [name for name in UNITS if issubclass(find(name), NetworkAnnotator)]


@pytest.fixture(params=UNITS, scope="module")
def annotator(request: pytest.FixtureRequest, ready: Callable[..., Annotator]) -> Annotator:
    return ready(request.param)


def _same(left: object, right: object) -> bool:
    assert isinstance(left, Annotation)
    assert isinstance(right, Annotation)
    return bool((left.map == right.map).all()) and left.columns == right.columns


def _alike(annotator: Annotator, left: object, right: object) -> bool:
    """The same; from a network, but for the last place."""
    if not isinstance(annotator, NetworkAnnotator):
        return _same(left, right)
    assert isinstance(left, Annotation)
    assert isinstance(right, Annotation)
    apart = np.abs(left.map.astype(int) - right.map.astype(int)) > 1
    flags = all(left.columns[flag] == right.columns[flag] for flag in annotator.flags)
    return bool(apart.mean() <= LARGEST_SHARE_OF_OTHER_PIXELS) and flags


@pytest.mark.parametrize("size", ODD_SIZES)
def test_a_map_has_its_images_geometry(annotator: Annotator, size: tuple[int, int]) -> None:
    (made,) = annotator([photo(*size)], ["000000000"])
    assert isinstance(made, Annotation), made
    assert made.map.shape == ((size[1], size[0]) if annotator.channels == 1 else (size[1], size[0], 3))
    assert made.map.dtype == np.uint8


def test_columns_and_flags_are_declared_and_can_be_stored(annotator: Annotator) -> None:
    (made,) = annotator([photo(64, 64)], ["000000000"])
    assert isinstance(made, Annotation)
    declared = {field.name: field.type for field in annotator.columns()}
    assert made.columns.keys() == declared.keys()
    assert all(str(declared[flag]) == "bool" for flag in annotator.flags)
    assert all(type(made.columns[flag]) is bool for flag in annotator.flags)
    schema = layer_schema(annotator.columns(), annotator.metadata())
    row = {**made.columns, "key": "0", "reason": None, "conditioning_image": {"bytes": b"", "path": "0.png"}}
    assert pa.RecordBatch.from_pylist([row], schema).num_rows == 1
    assert schema.names[-1] == "conditioning_image"


def test_a_row_is_the_same_again_and_alike_alone_and_in_a_batch(annotator: Annotator) -> None:
    images = [photo(*size, seed=seed) for size in SIZES for seed in range(2)]
    keys = [f"{row:09d}" for row in range(len(images))]
    together = annotator(images, keys)
    again = annotator(images, keys)
    backwards = annotator(images[::-1], keys[::-1])[::-1]
    for image, key, batched, repeated, reversed_ in zip(images, keys, together, again, backwards, strict=True):
        assert _same(batched, repeated)
        assert _alike(annotator, annotator([image], [key])[0], batched)
        assert _alike(annotator, reversed_, batched)


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


@pytest.mark.parametrize("size", [(1, 1), (3, 90), (90, 3), (700, 9), (9, 700), (2, 64)])
def test_a_picture_too_narrow_is_a_map_or_its_own_failure(annotator: Annotator, size: tuple[int, int]) -> None:
    before, narrow, after = annotator([photo(64, 64), photo(*size), photo(64, 64)], ["0", "1", "2"])
    assert _same(before, after)
    if isinstance(narrow, RowFailure):
        assert narrow.reason == "annotator_error"
        assert narrow.message
    else:
        assert narrow.map.shape[:2] == size[::-1]


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_not_finite_is_a_failure_and_no_blank_map(name: str, ready: Callable[..., Annotator]) -> None:
    annotator = ready(name)
    assert isinstance(annotator, NetworkAnnotator)
    parameters = list(annotator.network.parameters())
    before = [values.clone() for values in parameters]
    try:
        for values in parameters:
            values.fill_(float("nan"))
        (made,) = annotator([photo(64, 64)], ["0"])
    finally:
        for values, old in zip(parameters, before, strict=True):
            values.copy_(old)
    assert isinstance(made, RowFailure)
    assert "not finite" in made.message


def test_a_map_is_stored_without_loss(annotator: Annotator) -> None:
    (made,) = annotator([photo(100, 37)], ["0"])
    assert isinstance(made, Annotation)
    with Image.open(io.BytesIO(encode_map(made.map))) as stored:
        assert stored.format == "PNG"
        assert stored.mode == {1: "L", 3: "RGB"}[annotator.channels]
        assert (np.asarray(stored) == made.map).all()


def test_a_picture_of_one_colour_is_flagged_or_annotated_and_never_an_error(annotator: Annotator) -> None:
    (made,) = annotator([np.full((64, 64, 3), 90, np.uint8)], ["0"])
    assert isinstance(made, Annotation), made


def test_it_travels_to_a_worker_before_and_after_it_is_set_up(annotator: Annotator, make: Callable[..., Any]) -> None:
    sent = pickle.loads(pickle.dumps(make(annotator.name)))  # noqa: S301  our own bytes
    sent.setup("cpu")
    image = photo(128, 64)
    assert _same(sent([image], ["3"])[0], annotator([image], ["3"])[0])
    assert sent.recipe() == annotator.recipe()
    assert len(pickle.dumps(annotator)) < 10_000


def test_an_empty_batch_is_an_empty_list(annotator: Annotator) -> None:
    assert annotator([], []) == []


def test_it_says_what_a_reader_must_know(annotator: Annotator) -> None:
    metadata = annotator.metadata()
    assert metadata["polarity"] in {"white_on_black", "black_on_white", "none"}
    assert metadata["channels"] in {"1", "3"}
    assert annotator.resources.num_cpus > 0


def test_its_recipe_names_the_weights_and_not_where_they_are(annotator: Annotator) -> None:
    recipe = annotator.recipe()
    names = sorted(recipe.get("weights", {}))
    needed = sorted(annotator.needed_weights(), key=str)
    assert len(names) == len(needed)
    for name, file in zip(names, needed, strict=True):
        assert name in (str(file), f"{file.repository}/{file.or_else}")
    assert all(len(sha256) == 64 for sha256 in recipe.get("weights", {}).values())
    assert "batch_size" not in recipe


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_is_its_annotator_under_another_name(name: str, make: Callable[..., Annotator]) -> None:
    of, options = PRESETS[name]
    made = make(name)
    assert type(made) is type(make(of))
    assert made.name == name
    assert pickle.loads(pickle.dumps(made)).name == name  # noqa: S301  our own bytes
    assert made.recipe() == make(of, **options).recipe()
