import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controlmill.errors import SourceChangedError, SourceEmptyError, SourceMissingError
from storage.dataset import Dataset

Run = Callable[..., list[int]]
Planned = Callable[..., list[dict[str, Any]]]
Read = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("b.jpg", "a/z.PNG", "a/c.webp", "a.jpg", "a/deep/x.jpeg", "notes.md", ".hidden.jpg", "a/._c.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    folder.joinpath("b.txt").write_text("  a caption, two\nlines \n")
    folder.joinpath("a/z.txt").write_bytes("\ufeffdé".encode())
    return folder


def test_every_image_in_sorted_order(photos: Path, read: Read) -> None:
    rows = read(image_folder=str(photos))
    assert [(row["url"], row["caption"]) for row in rows] == [
        ("a/c.webp", None),
        ("a/deep/x.jpeg", None),
        ("a/z.PNG", "dé"),
        ("a.jpg", None),
        ("b.jpg", "a caption, two\nlines"),
    ]
    assert [json.loads(row["location"]) for row in rows[:1]] == [{"path": f"{photos}/a/c.webp"}]


def test_new_images_anywhere_in_the_order(dataset: Dataset, run: Run, planned: Planned, photos: Path) -> None:
    options = {"image_folder": str(photos), "number_sample_per_shard": 3}
    assert run(**options) == [0, 1]
    assert run(**options) == [0, 1]
    for name in ("a/a.jpg", "aa.jpg", "z/z.jpg"):
        photos.joinpath(name).parent.mkdir(exist_ok=True)
        photos.joinpath(name).write_bytes(b"y")
    with pytest.raises(
        SourceChangedError, match=r"3 new images, a/a\.jpg the first of them; --incremental-mode extend"
    ):
        run(**options)
    assert run(**options, incremental_mode="extend") == [0, 1, 2]
    assert [row["url"] for row in planned([2])] == ["a/a.jpg", "aa.jpg", "z/z.jpg"]
    assert run(**options) == [0, 1, 2]
    source = dataset.description().source
    assert source is not None
    assert source.files[0].rows == 8
    photos.joinpath("c.jpg").write_bytes(b"y")
    assert run(**options, incremental_mode="extend") == [0, 1, 2, 3]
    assert run(**options) == [0, 1, 2, 3]


@pytest.mark.parametrize("gone", ["a/c.webp", "b.jpg"])
def test_an_image_that_is_gone(run: Run, photos: Path, gone: str) -> None:
    run(image_folder=str(photos))
    photos.joinpath(gone).unlink()
    with pytest.raises(
        SourceChangedError, match=f"is not the source that this dataset was started from: {gone} is gone"
    ):
        run(image_folder=str(photos), incremental_mode="extend")


def test_a_caption_that_is_another(run: Run, photos: Path) -> None:
    run(image_folder=str(photos))
    photos.joinpath("b.txt").write_text("another")
    with pytest.raises(SourceChangedError, match=r"the caption of b\.jpg is another"):
        run(image_folder=str(photos))


def test_links_that_go_round(photos: Path, read: Read) -> None:
    photos.joinpath("a/up").symlink_to(photos)
    photos.joinpath("lost.jpg").symlink_to(photos / "nowhere.jpg")
    elsewhere = photos.parent / "elsewhere"
    elsewhere.mkdir()
    elsewhere.joinpath("e.jpg").write_bytes(b"x")
    photos.joinpath("c").symlink_to(elsewhere)
    assert [row["url"] for row in read(image_folder=str(photos))] == [
        "a/c.webp", "a/deep/x.jpeg", "a/z.PNG", "a.jpg", "b.jpg", "c/e.jpg",
    ]  # fmt: skip


def test_a_name_that_is_not_utf8(photos: Path, read: Read) -> None:
    (Path(str(photos)) / "\udcff.jpg").write_bytes(b"x")
    with pytest.raises(SourceMissingError, match=r"the file name '\\udcff.jpg' is not UTF-8: rename it"):
        read(image_folder=str(photos))


def test_no_folder_and_no_images(tmp_path: Path, run: Run) -> None:
    with pytest.raises(SourceMissingError, match="none: there is no such folder"):
        run(image_folder=str(tmp_path / "none"))
    tmp_path.joinpath("empty").mkdir()
    with pytest.raises(SourceEmptyError, match="empty holds not one row"):
        run(image_folder=str(tmp_path / "empty"))


def test_images_have_no_other_columns(photos: Path, run: Run) -> None:
    with pytest.raises(SourceMissingError, match="has no column 'score'; it has: url, caption"):
        run(image_folder=str(photos), save_additional_columns=("score",))
