import json
from collections.abc import Callable
from pathlib import Path

import pytest

from controlmill.errors import CorruptShardError
from storage.dataset import Dataset
from storage.layer import Layer
from storage.record import CommitRecord, ShardStatus

WriteShard = Callable[..., CommitRecord]


@pytest.fixture
def layer(dataset: Dataset) -> Layer:
    return dataset.layer("canny")


def test_paths(layer: Layer, dataset: Dataset) -> None:
    assert layer.path(3) == f"{dataset.root}/canny/00003.parquet"
    assert layer.record_path(123456) == f"{dataset.root}/canny/123456_stats.json"


def test_records_come_back_in_the_order_of_shards(layer: Layer, write_shard: WriteShard) -> None:
    written = {shard: write_shard("canny", shard) for shard in (100_000, 2, 0)}
    assert list(layer.records().items()) == [(0, written[0]), (2, written[2]), (100_000, written[100_000])]
    assert layer.committed() == {0, 2, 100_000}
    record = written[2]
    assert layer.statuses()[2] == ShardStatus(3, record.num_bytes, "f", record.sha256)
    assert layer.exists(2)
    assert not layer.exists(1)


def test_a_layer_that_is_not_there_is_empty(layer: Layer) -> None:
    assert layer.records() == {}
    assert layer.record(0) is None


def test_a_cut_record_is_none(layer: Layer, write_shard: WriteShard) -> None:
    write_shard("canny", 0)
    path = Path(layer.record_path(0))
    path.write_bytes(path.read_bytes()[:50])
    assert layer.record(0) is None
    assert layer.committed() == set()


def test_a_file_without_a_record_and_a_record_without_a_file_are_not_committed(
    layer: Layer, write_shard: WriteShard
) -> None:
    write_shard("canny", 0)
    write_shard("canny", 1)
    Path(layer.record_path(0)).unlink()
    Path(layer.path(1)).unlink()
    assert layer.committed() == set()
    assert (layer.record(0), layer.record(1)) == (None, None)
    assert [(shard, kind) for shard, kind, _size in layer.files()] == [(0, ".parquet"), (1, "_stats.json")]


def test_foreign_names_are_passed_over(layer: Layer, write_shard: WriteShard) -> None:
    write_shard("canny", 0)
    for name in ("notes.txt", "1.parquet", ".00001.parquet.ab12.tmp", "00000.parquet.crc"):
        Path(layer.folder, name).write_text("x")
    assert layer.committed() == {0}


def test_batches_stream_in_order(layer: Layer, write_shard: WriteShard) -> None:
    write_shard("canny", 0, num_rows=150)
    batches = list(layer.iter_batches(0, columns=["low"], batch_rows=40))
    assert max(batch.num_rows for batch in batches) <= 40
    assert [value for batch in batches for value in batch.column("low").to_pylist()] == list(range(150))
    assert batches[0].schema.names == ["low"]


def test_reading_what_is_not_committed(layer: Layer, write_shard: WriteShard) -> None:
    write_shard("canny", 0)
    Path(layer.record_path(0)).unlink()
    with pytest.raises(CorruptShardError, match=r"00000\.parquet: it has no commit record"):
        list(layer.iter_batches(0))
    with pytest.raises(CorruptShardError, match=r"00001\.parquet: the file is missing"):
        list(layer.iter_batches(1))


def test_reading_a_file_that_was_cut(layer: Layer, write_shard: WriteShard) -> None:
    record = write_shard("canny", 0)
    path = Path(layer.path(0))
    path.write_bytes(path.read_bytes()[:-5])
    message = rf"it has {record.num_bytes - 5} bytes, its commit record says {record.num_bytes}; delete .*_stats\.json"
    with pytest.raises(CorruptShardError, match=message):
        list(layer.iter_batches(0))


def test_reading_a_file_with_broken_bytes(layer: Layer, write_shard: WriteShard) -> None:
    write_shard("canny", 0)
    path = Path(layer.path(0))
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(CorruptShardError, match="magic bytes"):
        list(layer.iter_batches(0))


def test_reading_a_file_with_other_rows(layer: Layer, write_shard: WriteShard) -> None:
    write_shard("canny", 0)
    path = Path(layer.record_path(0))
    path.write_text(json.dumps({**json.loads(path.read_text()), "rows": 9}))
    with pytest.raises(CorruptShardError, match="it has 3 rows, its commit record says 9"):
        list(layer.iter_batches(0))


def test_delete_takes_both_files(layer: Layer, write_shard: WriteShard) -> None:
    write_shard("canny", 0)
    layer.delete(0)
    layer.delete(0)
    assert list(Path(layer.folder).iterdir()) == []
