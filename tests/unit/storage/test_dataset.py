import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from controlmill.errors import DatasetMismatchError, DatasetMissingError
from storage.dataset import Dataset
from storage.description import Description, PlanEntry, SourceDescription
from storage.record import CommitRecord

WriteShard = Callable[..., CommitRecord]


def test_open_needs_a_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetMissingError, match=r"nothing is no controlmill dataset: it has no dataset\.json"):
        Dataset.open(str(tmp_path / "nothing"))
    Dataset.create(str(tmp_path / "new"))
    assert Dataset.open(str(tmp_path / "new")).layers() == []


def test_create_refuses_a_folder_of_something_else(tmp_path: Path) -> None:
    tmp_path.joinpath("thesis.tex").write_text("x")
    with pytest.raises(
        DatasetMismatchError, match=r"is not empty and no controlmill dataset \(it holds 'thesis.tex'\)"
    ):
        Dataset.create(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_dataset_is_its_uri(tmp_path: Path) -> None:
    dataset = Dataset(f"file://{tmp_path}/a")
    assert dataset.root == f"{tmp_path}/a"
    assert list(tmp_path.iterdir()) == []
    again = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - our own bytes
    assert (again.uri, again.root) == (dataset.uri, dataset.root)


def test_an_address_is_right_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Dataset("a/b").address == f"{tmp_path}/a/b"
    assert Dataset("s3://bucket/a").address == "s3://bucket/a"


def test_describe_changes_what_it_is_given(dataset: Dataset) -> None:
    source = SourceDescription(options={"url_col": "u"}, history=[PlanEntry(kind="plan", first_shard=0)])
    dataset.describe(source=source)
    dataset.describe(options={"image_size": 512, "max_image_area": float("inf")})
    expected = Description(source=source, options={"image_size": 512, "max_image_area": "Infinity"})
    assert dataset.description() == expected
    content = json.loads(Path(dataset.root, "dataset.json").read_text())
    assert content["format_version"] == 1
    assert content["options"]["max_image_area"] == "Infinity"


def test_a_newer_format_is_refused(dataset: Dataset) -> None:
    Path(dataset.root, "dataset.json").write_text('{"format_version": 2, "surprise": []}')
    with pytest.raises(
        DatasetMismatchError, match=r"was written by a newer controlmill \(format 2, this one knows 1\)"
    ):
        dataset.description()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format_version": "x"}', '{"format_version": 1, "options": 3}'])
def test_a_damaged_description_is_named(dataset: Dataset, content: str) -> None:
    Path(dataset.root, "dataset.json").write_text(content)
    with pytest.raises(DatasetMismatchError, match=r"dataset\.json is damaged"):
        Dataset.open(dataset.uri)


def test_layers_are_folders_without_the_failures(dataset: Dataset, write_shard: WriteShard) -> None:
    write_shard("image")
    write_shard("canny")
    write_shard("failures")
    Path(dataset.root, ".cache").mkdir()
    assert dataset.layers() == ["canny", "image"]


def test_leftovers_of_dead_runs_go(dataset: Dataset, write_shard: WriteShard) -> None:
    write_shard("canny")
    leftovers = [".dataset.json.0a.tmp", "canny/.00003.parquet.12ab.tmp", "failures/.00003.parquet.9f.tmp"]
    keep = ["canny/notes.tmp", "canny/.hidden"]
    Path(dataset.root, "failures").mkdir()
    for name in leftovers + keep:
        Path(dataset.root, name).write_text("x")
    assert dataset.remove_leftovers() == 3
    assert [Path(dataset.root, name).exists() for name in leftovers + keep] == [False, False, False, True, True]
    assert dataset.layer("canny").committed() == {0}


def test_delete_layers_leaves_what_is_not_ours(dataset: Dataset, write_shard: WriteShard) -> None:
    write_shard("canny")
    write_shard("image")
    write_shard("failures")
    dataset.describe(options={"a": 1})
    own = Path(dataset.root, "mine")
    own.mkdir()
    own.joinpath("00000.parquet").write_text("not yours")
    dataset.delete_layers()
    left = sorted(str(path.relative_to(dataset.root)) for path in Path(dataset.root).rglob("*"))
    assert left == ["dataset.json", "mine", "mine/00000.parquet"]
    assert dataset.description() == Description()


def test_delete_layers_needs_a_dataset(tmp_path: Path) -> None:
    tmp_path.joinpath("image").mkdir()
    tmp_path.joinpath("image", "00000.parquet").write_text("x")
    with pytest.raises(DatasetMissingError):
        Dataset(str(tmp_path)).delete_layers()
    assert tmp_path.joinpath("image", "00000.parquet").exists()
