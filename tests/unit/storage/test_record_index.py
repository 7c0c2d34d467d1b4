"""An index of commit records is believed only where the listing shows the very files that were copied."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import record_index
from storage.dataset import Dataset
from storage.layer import Layer
from storage.record import CommitRecord

WriteShard = Callable[..., CommitRecord]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_index, "_MIN_NEW", 3)
    monkeypatch.setattr(record_index, "_RECORDS_PER_BATCH", 2)


@pytest.fixture
def layer(dataset: Dataset, write_shard: WriteShard) -> Layer:
    for shard in (0, 1, 2, 7, 100_000):
        write_shard("canny", shard)
    return dataset.layer("canny")


@pytest.fixture
def read(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the records that were read from files of their own."""
    names: list[str] = []
    read_many = dataset.files.read_many

    def watched(paths: list[str]) -> object:
        names.extend(Path(path).name for path in paths)
        return read_many(paths)

    monkeypatch.setattr(dataset.files, "read_many", watched)
    return names


def test_reading_alone_writes_nothing(layer: Layer) -> None:
    assert len(layer.records()) == 5
    assert not Path(layer.index_path).exists()


def test_with_an_index_no_record_is_read_one_by_one(layer: Layer, read: list[str]) -> None:
    before = list(layer.iter_records(remember=True))
    assert len(read) == 5
    read.clear()
    assert list(layer.iter_records()) == before
    assert read == []
    assert [record.shard for record in before] == [0, 1, 2, 7, 100_000]


def test_few_new_records_are_no_reason_for_a_new_index(layer: Layer, read: list[str], write_shard: WriteShard) -> None:
    list(layer.iter_records(remember=True))
    index = Path(layer.index_path).read_bytes()
    write_shard("canny", 3)
    read.clear()
    assert [record.shard for record in layer.iter_records(remember=True)] == [0, 1, 2, 3, 7, 100_000]
    assert read == ["00003_stats.json"]
    assert Path(layer.index_path).read_bytes() == index


def test_a_record_that_was_written_again_is_the_truth(layer: Layer, read: list[str], write_shard: WriteShard) -> None:
    list(layer.iter_records(remember=True))
    again = write_shard("canny", 1, num_rows=9, fingerprint="other")
    same_size = Path(layer.record_path(2))
    changed = same_size.read_bytes().replace(b'"count": 3', b'"count": 4')
    stat = same_size.stat()
    same_size.write_bytes(changed)
    os.utime(same_size, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    read.clear()
    records = layer.records()
    assert sorted(read) == ["00001_stats.json", "00002_stats.json"]
    assert records[1] == again
    assert records[2].count == 4


def test_what_was_deleted_is_not_committed(layer: Layer) -> None:
    list(layer.iter_records(remember=True))
    layer.delete_record(1)
    Path(layer.path(7)).unlink()
    assert layer.committed() == {0, 2, 100_000}


@pytest.mark.parametrize("damage", [b"", b"not an index", None])
def test_a_damaged_index_costs_nothing_but_time(layer: Layer, damage: bytes | None) -> None:
    before = list(layer.iter_records(remember=True))
    index = Path(layer.index_path)
    data = index.read_bytes()
    for size in [len(damage)] if damage is not None else range(0, len(data), 97):
        index.write_bytes(damage if damage is not None else data[:size])
        assert list(layer.iter_records()) == before


def test_starting_again_deletes_it(dataset: Dataset, layer: Layer) -> None:
    list(layer.iter_records(remember=True))
    dataset.delete_layers()
    assert not Path(layer.folder).exists()
