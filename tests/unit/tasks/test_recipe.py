"""What `dataset.json` remembers of annotators, those in files of the user's among them."""

from pathlib import Path
from typing import Any

import pytest

from controlmill.config import CaptionOptions, LayerOptions, PullOptions
from controlmill.errors import ConfigError, DatasetMismatchError, WeightsMissingError
from controlmill.testing.small_blip import write_small_blip
from storage.dataset import Dataset
from tasks.captioners.registry import create as create_captioner
from tasks.recipe import (
    annotators,
    layer_fingerprints,
    remember,
    remember_captions,
    remembered,
    remembered_captioner,
)

OWN = """
from controlmill.config.base import Options
from tasks.annotators.base import Annotation, Annotator

class MineOptions(Options):
    top: int = 255

class Mine(Annotator):
    name = "mine"
    version = "1"
    options_model = MineOptions

    def annotate(self, images, keys):
        return [Annotation(image[:, :, 0]) for image in images]
"""


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    made = Dataset.create(str(tmp_path / "data"))
    made.describe(options={"image": {}})
    return made


def options(*names: str, **of: dict[str, Any]) -> LayerOptions:
    return LayerOptions(annotators=names, annotator_options=of)


def test_annotators_are_remembered_beside_earlier_ones(dataset: Dataset) -> None:
    remember(dataset, options("canny", canny={"low_threshold": 50}))
    remember(dataset, options("lineart_standard"))
    known = dataset.description().options
    assert known == {"image": {}, "seed": 0, "annotators": {"canny": {"low_threshold": 50}, "lineart_standard": {}}}


def test_a_file_is_remembered_with_its_layer_and_retried_with(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    name = f"{tmp_path}/own.py:Mine"
    remember(dataset, options("canny", name, **{name: {"top": 9}}))
    known = dataset.description().options
    assert known["annotators"] == {"canny": {}, name: {"top": 9}}
    assert known["annotator_files"] == {name: "mine"}
    assert [unit.name for unit in annotators(remembered(dataset, PullOptions()))] == ["canny", "mine"]


def test_a_file_that_was_moved_takes_the_place_of_the_old_one(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text(OWN)
    remember(dataset, options(f"{tmp_path}/old.py:Mine"))
    before = layer_fingerprints(dataset, options(f"{tmp_path}/old.py:Mine"))
    (tmp_path / "old.py").rename(tmp_path / "new.py")
    name = f"{tmp_path}/new.py:Mine"
    remember(dataset, options(name))
    known = dataset.description().options
    assert known["annotators"] == {name: {}}
    assert known["annotator_files"] == {name: "mine"}
    assert layer_fingerprints(dataset, options(name)) == before


def test_an_edited_file_makes_another_layer(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    of = options(f"{tmp_path}/own.py:Mine")
    before = layer_fingerprints(dataset, of)
    (tmp_path / "own.py").write_text(OWN.replace(", 0]", ", 1]"))
    after = layer_fingerprints(dataset, of)
    assert before.keys() == after.keys() == {"mine"}
    assert before != after


def test_two_annotators_of_one_layer_are_refused(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(OWN)
    with pytest.raises(ConfigError, match=r"a\.py:Mine and .*b\.py:Mine both make the layer 'mine'"):
        annotators(options(f"{tmp_path}/a.py:Mine", f"{tmp_path}/b.py:Mine"))


def test_captions_are_made_again_as_they_were(dataset: Dataset, tmp_path: Path) -> None:
    folder = write_small_blip(tmp_path / "small-blip")
    assert remembered_captioner(dataset) is None
    made = create_captioner(CaptionOptions(captioner="blip", model=str(folder), num_beams=5, batch_size=2))
    remember_captions(dataset, made)
    again = remembered_captioner(dataset)
    assert again is not None
    assert (again.options, again.recipe()) == (made.options, made.recipe())

    write_small_blip(folder, seed=1)
    with pytest.raises(DatasetMismatchError, match=f"model: {folder} is not what captions of"):
        remembered_captioner(dataset)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(WeightsMissingError, match="there is no folder"):
        remembered_captioner(dataset)
