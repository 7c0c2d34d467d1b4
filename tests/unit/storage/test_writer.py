import errno
import hashlib
import itertools
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlmill.errors import StorageWriteError
from storage import writer as writer_module
from storage.dataset import Dataset
from storage.record import CommitRecord
from storage.schema import layer_schema, source_schema
from storage.writer import ShardWriter

Batch = Callable[..., pa.RecordBatch]


def write(dataset: Dataset, shard: int, batches: list[pa.RecordBatch]) -> bytes:
    with ShardWriter(dataset, "canny", shard, batches[0].schema) as writer:
        for batch in batches:
            writer.write(batch)
        writer.commit(None)
    return Path(dataset.layer("canny").path(shard)).read_bytes()


def test_written_file_says_what_is_on_the_disk(dataset: Dataset, batch: Batch) -> None:
    with ShardWriter(dataset, "canny", 7, batch(0, 1).schema) as writer:
        writer.write(batch(0, 130))
        written = writer.close()
        assert not Path(dataset.layer("canny").path(7)).exists()
        writer.commit(None)
    data = Path(dataset.layer("canny").path(7)).read_bytes()
    assert (written.num_rows, written.num_bytes) == (130, len(data))
    assert written.sha256 == hashlib.sha256(data).hexdigest()
    assert sorted(os.listdir(dataset.layer("canny").folder)) == ["00007.parquet"]  # noqa: PTH208 - names only


def test_row_groups_hold_64_rows_and_keep_the_order(dataset: Dataset, batch: Batch) -> None:
    write(dataset, 0, [batch(0, 50), batch(50, 80)])
    file = pq.ParquetFile(dataset.layer("canny").path(0))
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [64, 64, 2]
    assert file.read(["low"]).column("low").to_pylist() == list(range(130))


def test_row_groups_end_before_the_byte_limit(dataset: Dataset, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "BLOB_BYTES_PER_GROUP", 100)
    rows = [batch(0, 7, blob_bytes=40), batch(7, 1, blob_bytes=250), batch(8, 3, blob_bytes=0), batch(11, 2, 50)]
    write(dataset, 0, rows)
    file = pq.ParquetFile(dataset.layer("canny").path(0))
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [2, 2, 2, 1, 1, 5]


def test_a_layer_without_blobs_has_large_row_groups(dataset: Dataset) -> None:
    schema = source_schema()
    table = pa.table({name: [str(row) for row in range(20_000)] for name in schema.names}, schema=schema)
    with ShardWriter(dataset, "source", 0, schema) as writer:
        writer.write(table)
        writer.commit(None)
    metadata = pq.read_metadata(dataset.layer("source").path(0))
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [16_384, 3616]


def test_blobs_are_plain_and_uncompressed_and_the_rest_is_not(dataset: Dataset, batch: Batch) -> None:
    write(dataset, 0, [batch(0, 64)])
    group = pq.read_metadata(dataset.layer("canny").path(0)).row_group(0)
    columns = {group.column(index).path_in_schema: group.column(index) for index in range(group.num_columns)}
    assert list(columns) == ["key", "low", "reason", "conditioning_image.bytes", "conditioning_image.path"]
    blob = columns["conditioning_image.bytes"]
    assert (blob.compression, set(blob.encodings), blob.is_stats_set) == ("UNCOMPRESSED", {"PLAIN", "RLE"}, False)
    assert (columns["key"].compression, columns["key"].is_stats_set) == ("SNAPPY", True)
    assert "RLE_DICTIONARY" in columns["key"].encodings
    assert blob.has_offset_index
    assert columns["key"].has_column_index


def test_columns_of_bytes_are_blobs_too(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "BLOB_BYTES_PER_GROUP", 100)
    schema = layer_schema([pa.field("depth", pa.binary()), pa.field("near", pa.float32())])
    rows = [
        {"key": str(row), "near": 1.0, "depth": bytes(30), "conditioning_image": {"bytes": bytes(20), "path": "0.png"}}
        for row in range(5)
    ] + [{"key": "5", "near": None, "depth": None, "reason": "annotator_error", "conditioning_image": None}]
    write(dataset, 0, [pa.RecordBatch.from_pylist(rows, schema)])
    metadata = pq.ParquetFile(dataset.layer("canny").path(0)).metadata
    assert schema.names == ["key", "near", "reason", "depth", "conditioning_image"]
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [2, 2, 2]
    depth = next(
        column
        for column in map(metadata.row_group(0).column, range(metadata.num_columns))
        if column.path_in_schema == "depth"
    )
    assert (depth.compression, depth.has_dictionary_page) == ("UNCOMPRESSED", False)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(min_value=0, max_value=200), max_size=8))
def test_bytes_do_not_depend_on_how_rows_are_cut(dataset: Dataset, batch: Batch, cuts: list[int]) -> None:
    whole = write(dataset, 0, [batch(0, 200)])
    edges = [0, *sorted(cuts), 200]
    pieces = [batch(0, 200).slice(start, stop - start) for start, stop in itertools.pairwise(edges)]
    assert write(dataset, 1, pieces) == whole


def test_an_empty_shard_is_a_file_with_columns(dataset: Dataset, batch: Batch) -> None:
    write(dataset, 0, [batch(0, 0)])
    assert pq.read_table(dataset.layer("canny").path(0)).num_rows == 0


def test_other_columns_are_refused(dataset: Dataset, batch: Batch) -> None:
    with ShardWriter(dataset, "canny", 0, batch(0, 1).schema) as writer, pytest.raises(ValueError, match="batch has"):
        writer.write(batch(0, 1).drop_columns(["low"]))


def test_an_error_leaves_nothing(dataset: Dataset, batch: Batch) -> None:
    def fail_in_the_middle() -> None:
        with ShardWriter(dataset, "canny", 0, batch(0, 1).schema) as writer:
            writer.write(batch(0, 100))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_in_the_middle()
    assert list(Path(dataset.layer("canny").folder).iterdir()) == []


def test_an_old_record_goes_before_the_new_file_comes(
    dataset: Dataset, batch: Batch, write_shard: Callable[..., CommitRecord]
) -> None:
    write_shard("canny", 0)
    with ShardWriter(dataset, "canny", 0, batch(0, 1).schema) as writer:
        writer.write(batch(5, 5))
        writer.commit(None)
    assert dataset.layer("canny").record(0) is None


def test_the_record_of_another_file_is_refused(
    dataset: Dataset, batch: Batch, write_shard: Callable[..., CommitRecord]
) -> None:
    record = write_shard("canny", 0)
    with (
        ShardWriter(dataset, "canny", 1, batch(0, 1).schema) as writer,
        pytest.raises(ValueError, match="another file"),
    ):
        writer.commit(record)


def test_a_file_in_place_of_the_folder(dataset: Dataset, batch: Batch) -> None:
    Path(dataset.root, "canny").write_text("not a folder")
    with pytest.raises(StorageWriteError, match=r"cannot write .*/canny.*: (Not a directory|File exists)"):
        ShardWriter(dataset, "canny", 0, batch(0, 1).schema)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk: Path, batch: Batch) -> None:
    dataset = Dataset.create(str(small_disk))
    writer = ShardWriter(dataset, "canny", 0, batch(0, 1).schema)
    with pytest.raises(StorageWriteError) as caught, writer:
        writer.write(batch(0, 200, blob_bytes=10_000))
    assert str(caught.value) == f"cannot write {small_disk}/canny/00000.parquet: No space left on device"
    assert caught.value.__cause__ is not None
    assert getattr(caught.value.__cause__, "errno", None) == errno.ENOSPC
    assert list(small_disk.joinpath("canny").iterdir()) == []


def test_a_read_only_disk(small_disk: Path, batch: Batch) -> None:
    dataset = Dataset.create(str(small_disk))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageWriteError, match=r"cannot write .*: Read-only file system"):
        ShardWriter(dataset, "canny", 0, batch(0, 1).schema)


_LIMITED = """
import resource, signal, sys
import pyarrow as pa
from controlmill.errors import StorageWriteError
from storage.dataset import Dataset
from storage.schema import layer_schema, source_schema
from storage.writer import ShardWriter

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
dataset = Dataset.create(sys.argv[1])
schema = source_schema()
rows = pa.table({name: [f"{name}{row}" for row in range(40_000)] for name in schema.names}, schema=schema)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with ShardWriter(dataset, "source", 0, schema) as writer:
        writer.write(rows)
        writer.commit(None)
except StorageWriteError as error:
    print(error)
"""


def test_a_file_size_limit(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000
    command = [sys.executable, "-W", "error", "-c", _LIMITED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"cannot write {tmp_path}/source/00000.parquet: File too large\n"
    assert done.stderr == ""
    assert list(tmp_path.joinpath("source").iterdir()) == []
