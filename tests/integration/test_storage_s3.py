"""Datasets and sources on S3, against moto's server over real HTTP."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from controlmill.config import PullOptions, SourceOptions
from controlmill.errors import (
    CorruptShardError,
    DatasetMismatchError,
    DatasetMissingError,
    SourceChangedError,
    SourceMissingError,
    StorageWriteError,
)
from controlmill.testing.s3 import BUCKET, S3Server
from storage.card import write_card
from storage.dataset import Dataset
from storage.record import CommitRecord
from storage.schema import image_struct, layer_schema
from storage.verify import verify
from storage.writer import ShardWriter
from tasks.sources.local import LocalReader
from tasks.sources.location import Location
from tasks.sources.plan import plan

SCHEMA = layer_schema()


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    fsspec.config.set_conf_env(fsspec.config.conf)
    yield fsspec.filesystem("s3")
    fsspec.config.conf.pop("s3", None)


@pytest.fixture
def uri(request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/{request.node.name}/dataset"


def write(dataset: Dataset, shard: int, num_rows: int) -> CommitRecord:
    with ShardWriter(dataset, "canny", shard, SCHEMA) as writer:
        for row in range(num_rows):
            values = {"key": f"{row:09d}", "conditioning_image": {"bytes": bytes(50_000), "path": "x.png"}}
            writer.write(pa.RecordBatch.from_pylist([values], SCHEMA))
        written = writer.close()
        record = CommitRecord(
            count=num_rows,
            successes=num_rows,
            layer="canny",
            shard=shard,
            rows=num_rows,
            num_bytes=written.num_bytes,
            sha256=written.sha256,
            fingerprint="f",
        )
        writer.commit(record)
    return record


def test_a_dataset(s3: Any, uri: str) -> None:
    with pytest.raises(DatasetMissingError):
        Dataset.open(uri)
    dataset = Dataset.create(uri)
    written = {shard: write(dataset, shard, 3 + shard) for shard in (1, 0)}
    again = Dataset.open(uri)
    layer = again.layer("canny")
    assert again.layers() == ["canny"]
    assert layer.records() == {0: written[0], 1: written[1]}
    assert [batch.num_rows for batch in layer.iter_batches(1, ["key"])] == [4]
    assert layer.schema(0).field("conditioning_image").type == image_struct()
    with dataset.lock():
        assert dataset.remove_leftovers() == 0
    write_card(dataset)
    assert list(verify(dataset, deep=True)) == []
    names = sorted(path.partition("/dataset/")[2] for path in s3.find(uri.removeprefix("s3://")))
    shards = [f"canny/{shard}{end}" for shard in ("00000", "00001") for end in (".parquet", "_stats.json")]
    assert names == ["README.md", *shards, "dataset.json"]


def test_nothing_is_left_on_the_local_disk(s3: Any, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dataset = Dataset.create(uri)
    write(dataset, 0, 2)
    with ShardWriter(dataset, "canny", 1, SCHEMA):
        assert len(os.listdir(tmp_path)) == 1  # noqa: PTH208 - names only
    assert list(tmp_path.iterdir()) == []
    assert not s3.exists(dataset.layer("canny").path(1))


def test_what_another_machine_writes_is_seen(s3: Any, uri: str) -> None:
    dataset = Dataset.create(uri)
    assert dataset.layer("canny").committed() == set()
    write(Dataset(uri), 0, 1)
    s3.copy(dataset.layer("canny").path(0), dataset.layer("canny").path(7))
    assert dataset.layer("canny").committed() == {0}
    assert dataset.layer("canny").record(0) is not None


@pytest.mark.usefixtures("s3")
def test_a_large_file_is_uploaded_in_parts_and_is_the_same(uri: str) -> None:
    dataset = Dataset.create(uri)
    record = write(dataset, 0, 1300)
    assert record.num_bytes > 60_000_000
    assert list(verify(dataset, deep=True)) == []


def test_a_cut_file(s3: Any, uri: str) -> None:
    dataset = Dataset.create(uri)
    record = write(dataset, 0, 1)
    s3.pipe_file(dataset.layer("canny").path(0), b"short")
    with pytest.raises(CorruptShardError, match=f"it has 5 bytes, its commit record says {record.num_bytes}"):
        list(dataset.layer("canny").iter_batches(0))


def test_deleting(s3: Any, uri: str) -> None:
    dataset = Dataset.create(uri)
    write(dataset, 0, 1)
    s3.pipe_file(f"{dataset.root}/mine.txt", b"x")
    dataset.delete_layers()
    assert sorted(s3.find(dataset.root)) == [f"{dataset.root}/dataset.json", f"{dataset.root}/mine.txt"]


def test_a_bucket_that_is_not_there(s3: Any) -> None:
    with pytest.raises(StorageWriteError, match=r"cannot write mistyped/x/dataset\.json: .*bucket does not exist"):
        Dataset.create("s3://mistyped/x")
    assert s3.ls("") == [BUCKET]


def test_a_folder_of_something_else(s3: Any, uri: str) -> None:
    s3.pipe_file(f"{uri}/thesis.tex", b"x")
    with pytest.raises(DatasetMismatchError, match="is not empty and no controlmill dataset"):
        Dataset.create(uri)


@pytest.mark.usefixtures("s3")
def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": "http://127.0.0.1:9"})
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(
        SourceMissingError, match=r"cannot read bucket/urls\.txt: Could not connect to the endpoint URL"
    ):
        next(plan(Dataset("/nowhere"), SourceOptions(url_list=f"s3://{BUCKET}/urls.txt")))


def test_planning_from_s3(s3: Any, uri: str, tmp_path: Path) -> None:
    folder = uri.replace("dataset", "lists")
    s3.pipe_file(f"{folder}/b.csv", b"url\n3\n")
    s3.pipe_file(f"{folder}/a.csv", b"url\n1\n2\n")
    options = SourceOptions(url_list=folder, number_sample_per_shard=2)
    dataset = Dataset(str(tmp_path / "dataset"))
    assert list(plan(dataset, options)) == [0, 1]
    assert list(plan(dataset, options)) == [0, 1]
    source = dataset.description().source
    assert source is not None
    assert [file.name for file in source.files] == ["a.csv", "b.csv"]
    assert all(len(file.modified.strip('"')) == 32 for file in source.files)  # ETags
    s3.pipe_file(f"{folder}/b.jsonl", b'{"url": "5"}\n' * 3)
    lines = Dataset(str(tmp_path / "lines"))
    list(plan(lines, options.model_copy(update={"input_format": "jsonl"})))
    assert [record.rows for record in lines.layer("source").iter_records()] == [2, 1]
    s3.rm_file(f"{folder}/b.jsonl")
    s3.pipe_file(f"{folder}/b.csv", b"url\n4\n")
    with pytest.raises(SourceChangedError, match=r"the first 1 rows of b\.csv are others"):
        list(plan(dataset, options))


def test_planning_images_onto_s3(s3: Any, uri: str) -> None:
    folder = uri.replace("dataset", "photos")
    s3.pipe_file(f"{folder}/a/1.jpg", b"one")
    s3.pipe_file(f"{folder}/a/1.txt", b"caption")
    s3.pipe_file(f"{folder}/2.jpg", b"two")
    dataset = Dataset(uri)
    assert list(plan(dataset, SourceOptions(image_folder=folder))) == [0]
    rows = [row for batch in dataset.layer("source").iter_batches(0) for row in batch.to_pylist()]
    assert [(row["url"], row["caption"]) for row in rows] == [("2.jpg", None), ("a/1.jpg", "caption")]
    reader = LocalReader(PullOptions())
    assert [reader.read(row["location"]) for row in rows] == [b"two", b"one"]
    missing = reader.read(Location(f"{folder}/3.jpg").to_text())
    assert not isinstance(missing, bytes)
    assert missing.reason == "file_missing"
