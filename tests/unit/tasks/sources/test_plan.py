import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from controlmill.config import SourceOptions
from controlmill.errors import (
    ConfigError,
    CorruptShardError,
    DatasetMismatchError,
    SourceChangedError,
    SourceEmptyError,
    SourceMissingError,
)
from storage.dataset import Dataset
from tasks.sources.plan import check_source, plan, start_again

Run = Callable[..., list[int]]
Planned = Callable[..., list[dict[str, Any]]]


def write_urls(path: Path, numbers: list[int] | range) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"http://a.example/{number}.jpg\n" for number in numbers))


def touch(path: Path, seconds: int = 1) -> None:
    """Another modification time, whatever the resolution of the file system's clock."""
    time_ns = path.stat().st_mtime_ns + seconds * 1_000_000_000
    os.utime(path, ns=(time_ns, time_ns))


def parquet_bytes(dataset: Dataset) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(dataset.root, "source").glob("*.parquet"))}


@pytest.fixture
def urls(tmp_path: Path) -> Path:
    path = tmp_path / "urls.txt"
    write_urls(path, range(25))
    return path


@pytest.fixture
def options(urls: Path) -> dict[str, Any]:
    return {"url_list": str(urls), "number_sample_per_shard": 10}


def test_shards_and_their_rows(dataset: Dataset, run: Run, planned: Planned, options: dict[str, Any]) -> None:
    assert run(**options) == [0, 1, 2]
    rows = planned([0, 1, 2])
    assert [row["key"] for row in rows[8:12]] == ["000008", "000009", "000010", "000011"]
    assert [row["url"] for row in rows] == [f"http://a.example/{number}.jpg" for number in range(25)]
    record = dataset.layer("source").record(2)
    assert record is not None
    assert (record.count, record.rows, record.unit.name) == (5, 5, "plan")
    source = dataset.description().source
    assert source is not None
    assert [entry.model_dump() for entry in source.history] == [
        {"kind": "plan", "first_shard": 0, "num_shards": 3, "rows": 25, "complete": True}
    ]
    assert [(file.name, file.rows) for file in source.files] == [("urls.txt", 25)]


def test_planning_again_writes_nothing_and_reads_nothing(
    dataset: Dataset, run: Run, urls: Path, options: dict[str, Any]
) -> None:
    run(**options)
    before = {path: path.stat().st_mtime_ns for path in Path(dataset.root).rglob("*")}
    stat = urls.stat()
    urls.write_bytes(b"x" * stat.st_size)  # what is in it is not looked at while size and time are the same
    os.utime(urls, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert run(**options) == [0, 1, 2]
    assert {path: path.stat().st_mtime_ns for path in Path(dataset.root).rglob("*")} == before


def test_the_same_rows_give_the_same_bytes(tmp_path: Path, options: dict[str, Any]) -> None:
    datasets = [Dataset(str(tmp_path / name)) for name in ("one", "two")]
    for dataset in datasets:
        list(plan(dataset, SourceOptions(**options)))
    assert parquet_bytes(datasets[0]) == parquet_bytes(datasets[1])


def test_a_touched_file_is_read_again_and_is_the_same(
    dataset: Dataset, run: Run, urls: Path, options: dict[str, Any]
) -> None:
    run(**options)
    touch(urls)
    assert run(**options) == [0, 1, 2]
    source = dataset.description().source
    assert source is not None
    assert source.files[0].modified == str(urls.stat().st_mtime_ns)


def test_a_renamed_file_is_the_same(run: Run, urls: Path, options: dict[str, Any]) -> None:
    run(**options)
    moved = urls.rename(urls.with_name("moved.txt"))
    assert run(**{**options, "url_list": str(moved)}) == [0, 1, 2]


def test_a_file_that_grew(dataset: Dataset, run: Run, planned: Planned, urls: Path, options: dict[str, Any]) -> None:
    run(**options)
    before = parquet_bytes(dataset)
    write_urls(urls, range(37))
    touch(urls)
    with pytest.raises(
        SourceChangedError, match=r"has grown since .*: urls.txt has 37 rows, 25 when the dataset was start"
    ):
        run(**options)
    with pytest.raises(SourceChangedError, match=r"--incremental-mode extend adds the new rows as new shards"):
        run(**options)
    assert run(**options, incremental_mode="extend") == [0, 1, 2, 3, 4]
    assert [row["url"] for row in planned([3, 4])] == [f"http://a.example/{number}.jpg" for number in range(25, 37)]
    assert [row["key"] for row in planned([4])] == ["000040", "000041"]
    assert {name: parquet_bytes(dataset)[name] for name in before} == before
    assert run(**options) == [0, 1, 2, 3, 4]
    assert run(**options, incremental_mode="extend") == [0, 1, 2, 3, 4]
    source = dataset.description().source
    assert source is not None
    assert [(entry.kind, entry.first_shard, entry.rows) for entry in source.history] == [
        ("plan", 0, 25),
        ("extend", 3, 12),
    ]


def test_new_files_of_a_folder(run: Run, planned: Planned, tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    write_urls(folder / "b.txt", range(3))
    options = {"url_list": str(folder), "number_sample_per_shard": 2}
    assert run(**options) == [0, 1]
    write_urls(folder / "a.txt", [70, 71])
    write_urls(folder / "b.txt", range(4))
    with pytest.raises(SourceChangedError, match=r"a.txt is new; b.txt has 4 rows, 3 when the dataset was started"):
        run(**options)
    assert run(**options, incremental_mode="extend") == [0, 1, 2, 3]
    assert [row["url"][17:] for row in planned([2, 3])] == ["70.jpg", "71.jpg", "3.jpg"]
    assert run(**options) == [0, 1, 2, 3]


@pytest.mark.parametrize("mode", ["incremental", "extend"])
@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([*range(24)], "urls.txt has 24 rows, 25 when the dataset was started"),
        ([1, 0, *range(2, 25)], "the first 25 rows of urls.txt are others, or in another order"),
        ([*range(24), 99, 100], "the first 25 rows of urls.txt are others, or in another order"),
    ],
)
def test_planned_rows_that_are_others(
    dataset: Dataset, run: Run, urls: Path, options: dict[str, Any], mode: str, numbers: list[int], message: str
) -> None:
    run(**options)
    before = parquet_bytes(dataset)
    write_urls(urls, numbers)
    touch(urls)
    with pytest.raises(SourceChangedError, match=f"is not the source that this dataset was started from: {message}"):
        run(**options, incremental_mode=mode)
    assert parquet_bytes(dataset) == before


def test_a_file_of_a_folder_that_is_gone(run: Run, tmp_path: Path) -> None:
    for name in "abc":
        write_urls(tmp_path / "lists" / f"{name}.txt", [ord(name)])
    run(url_list=str(tmp_path / "lists"))
    tmp_path.joinpath("lists", "b.txt").unlink()
    with pytest.raises(SourceChangedError, match=r"b\.txt is gone; use another output folder, or start again with"):
        run(url_list=str(tmp_path / "lists"))


def test_other_columns_of_the_file_may_change(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"url": ["a", "b"], "x": [1, 2]}), path)
    run(url_list=str(path))
    pq.write_table(pa.table({"x": [3, 4], "url": ["a", "b"]}), path)
    touch(path)
    assert run(url_list=str(path)) == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number_sample_per_shard": 5}, r"number_sample_per_shard is 5, and was 10 when .*dataset was started"),
        ({"url_col": "u"}, r"url_col is 'u', and was 'url' when"),
        ({"verify_hash": ("h", "md5")}, r"verify_hash is \['h', 'md5'\], and was None when"),
    ],
)
def test_other_options_are_refused(run: Run, options: dict[str, Any], change: dict[str, Any], message: str) -> None:
    run(**options)
    with pytest.raises(DatasetMismatchError, match=message):
        run(**{**options, **change})


def test_a_column_of_ours_is_refused(run: Run, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="'width' is a column that controlmill writes itself"):
        run(**options, save_additional_columns=("width",))


def test_nothing_is_made_of_a_source_without_rows(dataset: Dataset, run: Run, tmp_path: Path) -> None:
    for name, content in (("a.txt", "\n\n"), ("b.csv", ""), ("c.csv", "url,x\n"), ("d.json", "[]"), ("e.jsonl", "")):
        tmp_path.joinpath(name).write_text(content)
        with pytest.raises(SourceEmptyError, match=rf"{name} holds not one row"):
            run(url_list=str(tmp_path / name))
    pq.write_table(pa.table({"url": pa.array([], pa.string())}), tmp_path / "f.parquet")
    with pytest.raises(SourceEmptyError):
        run(url_list=str(tmp_path / "f.parquet"))
    assert not Path(dataset.root).exists()


def test_errors_come_before_the_first_shard_is_asked_for(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(SourceMissingError, match="there is no such file or folder"):
        plan(dataset, SourceOptions(url_list=str(tmp_path / "none.txt")))
    assert not Path(dataset.root).exists()


def interrupted(iterator: Iterator[int], num_shards: int) -> list[int]:
    """As if the process had died after so many shards."""
    return [next(iterator) for _ in range(num_shards)]


def test_an_interrupted_plan_goes_on(tmp_path: Path, dataset: Dataset, run: Run, options: dict[str, Any]) -> None:
    assert interrupted(plan(dataset, SourceOptions(**options)), 2) == [0, 1]
    written = {path: path.stat().st_mtime_ns for path in Path(dataset.root, "source").iterdir()}
    assert run(**options) == [0, 1, 2]
    assert {path: path.stat().st_mtime_ns for path in written} == written
    undisturbed = Dataset(str(tmp_path / "undisturbed"))
    list(plan(undisturbed, SourceOptions(**options)))
    assert parquet_bytes(dataset) == parquet_bytes(undisturbed)
    assert dataset.description() == undisturbed.description()


def test_a_shard_without_its_record_is_written_again(dataset: Dataset, run: Run, options: dict[str, Any]) -> None:
    interrupted(plan(dataset, SourceOptions(**options)), 2)
    before = parquet_bytes(dataset)
    Path(dataset.layer("source").record_path(1)).unlink()
    Path(dataset.layer("source").path(1)).write_bytes(b"half of it")
    assert run(**options) == [0, 1, 2]
    assert parquet_bytes(dataset)["00001.parquet"] == before["00001.parquet"]


def test_a_source_that_changed_while_the_plan_was_interrupted(
    dataset: Dataset, run: Run, urls: Path, options: dict[str, Any]
) -> None:
    interrupted(plan(dataset, SourceOptions(**options)), 2)
    write_urls(urls, [*range(12), 99, *range(13, 25)])
    with pytest.raises(
        SourceChangedError, match="its rows 11 to 20 are not those of shard 00001, which was planned before"
    ):
        run(**options)
    write_urls(urls, range(10))
    with pytest.raises(
        SourceChangedError, match="it ended after 10 new rows, and more were planned before the build was"
    ):
        run(**options)


def test_an_interrupted_extension_goes_on(
    dataset: Dataset, run: Run, planned: Planned, urls: Path, options: dict[str, Any]
) -> None:
    run(**options)
    write_urls(urls, range(50))
    touch(urls)
    extend = SourceOptions(**options, incremental_mode="extend")
    assert interrupted(plan(dataset, extend), 4) == [0, 1, 2, 3]
    with pytest.raises(SourceChangedError, match="has grown"):
        run(**options)
    assert list(plan(dataset, extend)) == [0, 1, 2, 3, 4, 5]
    assert [row["url"][17:-4] for row in planned([3, 4, 5])] == [str(number) for number in range(25, 50)]


def test_a_planned_shard_that_is_lost(dataset: Dataset, run: Run, options: dict[str, Any]) -> None:
    run(**options)
    Path(dataset.layer("source").path(1)).unlink()
    with pytest.raises(CorruptShardError, match=r"source/00001\.parquet is missing or has no record"):
        run(**options)


def test_overwriting(dataset: Dataset, run: Run, planned: Planned, urls: Path, options: dict[str, Any]) -> None:
    run(**options)
    dataset.describe(options={"image": {"image_size": 512}})
    write_urls(urls, [7])
    again = {**options, "number_sample_per_shard": 100, "incremental_mode": "overwrite"}
    assert run(**again) == [0]
    assert planned([0]) == [{"key": "0000000", "url": "http://a.example/7.jpg"}]
    assert dataset.layer("source").committed() == {0}
    assert dataset.description().options == {"image": {"image_size": 512}}


def test_overwriting_needs_a_source_first(dataset: Dataset, run: Run, tmp_path: Path, options: dict[str, Any]) -> None:
    run(**options)
    with pytest.raises(SourceMissingError):
        run(url_list=str(tmp_path / "mistyped.txt"), incremental_mode="overwrite")
    assert dataset.layer("source").committed() == {0, 1, 2}


@pytest.mark.parametrize("mode", ["incremental", "overwrite"])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, options: dict[str, Any], mode: str) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    photos.joinpath("a.jpg").write_text("x")
    with pytest.raises(
        DatasetMismatchError, match=r"photos is not empty and no controlmill dataset \(it holds 'a.jpg'\)"
    ):
        list(plan(Dataset(str(photos)), SourceOptions.model_validate({**options, "incremental_mode": mode})))
    with pytest.raises(DatasetMismatchError):
        start_again(Dataset(str(photos)))
    assert [path.name for path in photos.iterdir()] == ["a.jpg"]


def test_check_source(tmp_path: Path, options: dict[str, Any]) -> None:
    check_source(SourceOptions(**options))
    with pytest.raises(SourceMissingError):
        check_source(SourceOptions(url_list=str(tmp_path / "mistyped.txt")))


def test_types_told_from_the_first_rows_stay(dataset: Dataset, run: Run, planned: Planned, tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"url": "a", "n": 1}\n')
    options = {"url_list": str(path), "save_additional_columns": ("n",)}
    run(**options)
    path.write_text(path.read_text() + json.dumps({"url": "b", "n": 2}) + "\n")
    touch(path)
    run(**options, incremental_mode="extend")
    assert planned([1], ("url", "n")) == [{"url": "b", "n": 2}]
    assert dataset.layer("source").schema(1) == dataset.layer("source").schema(0)
