from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from storage.dataset import Dataset
from storage.record import CommitRecord
from storage.schema import image_struct, layer_schema
from storage.writer import ShardWriter, WrittenFile

SCHEMA = layer_schema([pa.field("low", pa.int32())])
WriteShard = Callable[..., CommitRecord]


def make_batch(first: int, num_rows: int, blob_bytes: int = 20) -> pa.RecordBatch:
    """Rows `first`, `first + 1`, ... of a little annotator layer."""
    rows = range(first, first + num_rows)
    blobs = [{"bytes": bytes([row % 251]) * blob_bytes, "path": f"{row:09d}.png"} for row in rows]
    columns = [
        pa.array([f"{row:09d}" for row in rows]),
        pa.array(list(rows), pa.int32()),
        pa.nulls(num_rows, pa.string()),
        pa.array(blobs, image_struct()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def make_record(written: WrittenFile, layer: str, shard: int, fingerprint: str = "f") -> CommitRecord:
    return CommitRecord(
        count=written.num_rows,
        successes=written.num_rows,
        layer=layer,
        shard=shard,
        rows=written.num_rows,
        num_bytes=written.num_bytes,
        sha256=written.sha256,
        fingerprint=fingerprint,
    )


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset.create(str(tmp_path / "dataset"))


@pytest.fixture
def batch() -> Callable[..., pa.RecordBatch]:
    return make_batch


@pytest.fixture
def write_shard(dataset: Dataset) -> WriteShard:
    def write(layer: str = "canny", shard: int = 0, num_rows: int = 3, fingerprint: str = "f") -> CommitRecord:
        with ShardWriter(dataset, layer, shard, SCHEMA) as writer:
            writer.write(make_batch(shard * 1000, num_rows))
            record = make_record(writer.close(), layer, shard, fingerprint)
            writer.commit(record)
        return record

    return write


@pytest.fixture
def record_of() -> Callable[..., CommitRecord]:
    return make_record
