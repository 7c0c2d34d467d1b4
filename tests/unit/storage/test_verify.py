from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from storage.dataset import Dataset
from storage.layer import FAILURES
from storage.record import CommitRecord, LayerInput
from storage.verify import verify
from storage.writer import ShardWriter

Batch = Callable[..., pa.RecordBatch]


@pytest.fixture
def write(dataset: Dataset, record_of: Callable[..., CommitRecord]) -> Callable[..., CommitRecord]:
    def write_layer(
        layer: str, rows: pa.RecordBatch, image: CommitRecord | None = None, failures: str = ""
    ) -> CommitRecord:
        with ShardWriter(dataset, layer, 0, rows.schema) as writer:
            writer.write(rows)
            record: CommitRecord = record_of(writer.close(), layer, 0)
            inputs = {"image": LayerInput(fingerprint=image.fingerprint, sha256=image.sha256)} if image else {}
            record = record.model_copy(update={"inputs": inputs, "failures_sha256": failures or None})
            writer.commit(None if layer == FAILURES else record)
        return record

    return write_layer


def problems(dataset: Dataset, *, deep: bool) -> list[str]:
    return [str(problem) for problem in verify(dataset, deep=deep)]


@pytest.fixture
def built(dataset: Dataset, batch: Batch, write: Callable[..., CommitRecord]) -> Dataset:
    failures = write(FAILURES, batch(90, 2))
    image = write("image", batch(0, 100), failures=failures.sha256)
    write("canny", batch(0, 100), image)
    return dataset


def test_a_good_dataset(built: Dataset) -> None:
    assert problems(built, deep=False) == []
    assert problems(built, deep=True) == []


def test_a_cut_file(built: Dataset) -> None:
    path = Path(built.layer("canny").path(0))
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    assert problems(built, deep=False) == [f"canny/00000: it has {size - 1} bytes, its commit record says {size}"]


def test_a_flipped_bit_is_found_by_reading(built: Dataset) -> None:
    path = Path(built.layer("canny").path(0))
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert problems(built, deep=False) == []
    assert problems(built, deep=True) == ["canny/00000: its bytes are not those of its commit record"]


def test_images_that_were_replaced(built: Dataset, batch: Batch, write: Callable[..., CommitRecord]) -> None:
    write("image", batch(1, 99))
    assert problems(built, deep=False) == [
        "canny/00000: it was made from another image/00000",
        "canny/00000: it has 100 rows, the images have 99",
    ]


def test_other_keys(built: Dataset, batch: Batch, write: Callable[..., CommitRecord]) -> None:
    image = built.layer("image").record(0)
    write("canny", pa.Table.from_batches([batch(0, 60), batch(61, 40)]).combine_chunks().to_batches()[0], image)
    assert problems(built, deep=False) == []
    assert problems(built, deep=True) == ["canny/00000: its keys are not those of the images, from row 60 on"]


def test_failures(built: Dataset, batch: Batch, write: Callable[..., CommitRecord]) -> None:
    write(FAILURES, batch(91, 2))
    assert problems(built, deep=False) == []
    assert problems(built, deep=True) == ["failures/00000: its bytes are not those of the images' commit record"]
    Path(built.failures.path(0)).unlink()
    assert problems(built, deep=False) == ["failures/00000: the file is missing"]


def test_what_is_not_committed_is_no_problem(built: Dataset) -> None:
    Path(built.layer("canny").record_path(0)).unlink()
    assert problems(built, deep=True) == []
