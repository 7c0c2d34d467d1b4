"""Rows of any range, whatever the row groups."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from controlmill.errors import CorruptShardError
from storage.dataset import Dataset
from storage.record import CommitRecord, ShardStatus
from storage.row_ranges import RowRanges

WriteShard = Callable[..., CommitRecord]


@pytest.fixture
def statuses(write_shard: WriteShard) -> dict[int, ShardStatus]:
    """Three shards of 150 rows: row groups of 64, 64 and 22."""
    return {shard: ShardStatus.of(write_shard("canny", shard, 150)) for shard in range(3)}


@pytest.mark.parametrize(("start", "stop"), [(0, 150), (0, 64), (64, 128), (63, 65), (10, 20), (100, 150), (149, 150)])
def test_the_rows_of_a_range(dataset: Dataset, statuses: dict[int, ShardStatus], start: int, stop: int) -> None:
    table = RowRanges(dataset, "canny", ["key", "low", "conditioning_image.bytes"], statuses).read(1, start, stop)
    assert table.column("low").to_pylist() == list(range(1000 + start, 1000 + stop))
    row = table.to_pylist()[0]
    assert row["key"] == f"{1000 + start:09d}"
    assert row["conditioning_image"] == {"bytes": bytes([(1000 + start) % 251]) * 20}


def test_many_threads_and_more_shards_than_open_files(
    dataset: Dataset, statuses: dict[int, ShardStatus], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.row_ranges._OPEN_FILES_PER_THREAD", 1)
    ranges = RowRanges(dataset, "canny", ["low"], statuses)
    places = [(shard, start) for start in range(0, 150, 10) for shard in range(3)]
    with ThreadPoolExecutor(4) as pool:
        tables = list(pool.map(lambda place: ranges.read(place[0], place[1], place[1] + 10), places))
    for (shard, start), table in zip(places, tables, strict=True):
        assert table.column("low").to_pylist() == list(range(shard * 1000 + start, shard * 1000 + start + 10))


def test_a_file_that_is_not_its_records_is_named(dataset: Dataset, statuses: dict[int, ShardStatus]) -> None:
    ranges = RowRanges(dataset, "canny", ["low"], statuses)
    path = Path(dataset.layer("canny").path(0))
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(CorruptShardError, match=r"canny/00000\.parquet: it has \d+ bytes, its commit record says"):
        ranges.read(0, 0, 1)
    path.write_bytes(data[:-4] + b"none")
    with pytest.raises(CorruptShardError, match=r"canny/00000\.parquet.*delete .*00000_stats\.json"):
        ranges.read(0, 0, 1)
    path.unlink()
    with pytest.raises(CorruptShardError, match="No such file"):
        ranges.read(0, 0, 1)
