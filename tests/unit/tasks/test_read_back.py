"""The annotators of a dataset read images back as they made its layers."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from controlmill.config.training_data import TrainingDataOptions
from controlmill.errors import DatasetMismatchError
from controlmill.testing.training_set import write_training_set
from storage.dataset import Dataset
from tasks.read_back import read_backs_of
from training.reader.reader import ShardReader

LAYERS = ("canny", "scribble", "lineart_standard")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_training_set(
        tmp_path_factory.mktemp("data"),
        num_rows=40,
        encode_format="png",
        annotators=LAYERS,
        annotator_options={"canny": {"high_threshold": [150, 250]}, "scribble": {"source": "canny"}},
        seed=3,
    )


def test_stored_images_are_read_back_as_the_layers_have_them(dataset: str) -> None:
    options = TrainingDataOptions(
        train_data_dir=dataset,
        condition=("scribble", "canny", "lineart_standard"),
        resolution=64,
        keep_empty_hints=True,
    )
    with ShardReader(options, batch_size=1, num_probe_rows=4) as reader:
        keys, pictures = reader.held_out(4).keys, reader.held_out_pictures(4)
    read_backs = read_backs_of(Dataset.open(dataset), options.condition)
    for number, layer in enumerate(options.condition):
        read_back = pickle.loads(pickle.dumps(read_backs[layer]))  # noqa: S301 our own bytes
        read_back.check()
        made = read_back([one.pixels for one in pictures], keys, "cpu")
        assert any(one.any() for one in made)
        for one, picture in zip(made, pictures, strict=True):
            assert np.array_equal(one, picture.maps[number])


def test_scores(dataset: str) -> None:
    found = read_backs_of(Dataset.open(dataset), ("image", *LAYERS))
    assert {layer: one.score for layer, one in found.items()} == {layer: layer for layer in LAYERS}


def with_annotators(dataset: str, **annotators: dict[str, object]) -> Dataset:
    """The same as if it remembered these."""
    opened = Dataset.open(dataset)
    opened.describe(options={**opened.description().options, "annotators": annotators})
    return opened


def test_other_kinds_of_layers(tmp_path: Path) -> None:
    dataset = write_training_set(tmp_path, num_rows=2)
    opened = with_annotators(dataset, softedge_hed={}, scribble_hed={}, depth_midas={}, somebodys={}, canny={"gone": 1})
    found = read_backs_of(opened, ("softedge_hed", "scribble_hed", "depth_midas", "somebodys", "canny"))
    scores = {"softedge_hed": "hed", "scribble_hed": "scribble", "depth_midas": "midas"}
    assert {layer: one.score for layer, one in found.items()} == scores


def test_a_layer_made_otherwise_is_refused(tmp_path: Path) -> None:
    dataset = write_training_set(tmp_path, num_rows=2)
    opened = with_annotators(dataset, canny={"low_threshold": 20})
    with pytest.raises(DatasetMismatchError, match="canny: the layer was made with other low_threshold than"):
        read_backs_of(opened, ("canny",))["canny"].check()


def test_a_failed_image_is_an_error(dataset: str) -> None:
    read_back = read_backs_of(Dataset.open(dataset), ("canny",))["canny"]
    with pytest.raises(ValueError, match="canny: 1 of 2 images failed: the image is float32"):
        read_back([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.float32)], ["a", "b"], "cpu")
