from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controlmill.config import SourceOptions
from storage.dataset import Dataset
from tasks.sources.base import Planned
from tasks.sources.plan import open_source, plan

Rows = list[dict[str, Any]]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(str(tmp_path / "dataset"))


@pytest.fixture
def read() -> Callable[..., Rows]:
    """Every row of a source, without the columns that are always null here."""

    def read_rows(**options: Any) -> Rows:
        source = open_source(SourceOptions(**options))
        schema = source.schema()
        batches = source.news(Planned(), schema).iter_rows(schema)
        return [
            {
                name: value
                for name, value in row.items()
                if name not in {"retry_of", "expected_hash"} or value is not None
            }
            for batch in batches
            for row in batch.to_pylist()
        ]

    return read_rows


@pytest.fixture
def run(dataset: Dataset) -> Callable[..., list[int]]:
    """Plan into the dataset; the shards that were yielded."""

    def run_plan(**options: Any) -> list[int]:
        return list(plan(dataset, SourceOptions(**options)))

    return run_plan


@pytest.fixture
def planned(dataset: Dataset) -> Callable[..., Rows]:
    """Key and URL (or other columns) of every row of source shards."""

    def rows(shards: list[int], columns: tuple[str, ...] = ("key", "url")) -> Rows:
        layer = dataset.layer("source")
        return [row for shard in shards for batch in layer.iter_batches(shard, columns) for row in batch.to_pylist()]

    return rows
