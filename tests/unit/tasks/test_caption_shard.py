"""One shard's captions: rows in the order of the images, whatever the batches, and failures with a reason."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from controlmill.config import CaptionOptions
from controlmill.errors import StorageError
from controlmill.reasons import Reason
from controlmill.testing.grey_shard import write_grey_shard
from storage.dataset import Dataset
from tasks.caption_shard import Batch, Caption, caption_shard
from tasks.captioners.base import CaptionModel
from tasks.captioners.blip import Blip
from tasks.progress import ShardProgress

NUM_ROWS = 70


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """One shard of images whose caption is their number, but for each third."""
    return write_grey_shard(tmp_path, NUM_ROWS, lambda number: f"number {number}" if number % 3 else None)


def captioner(batch_size: int = 16) -> Blip:
    model = CaptionModel("small", "/nowhere", "0123456789abcdef")
    return Blip(CaptionOptions(captioner="blip", model="small", batch_size=batch_size), model)


def two_ahead(batches: Iterable[Batch]) -> Iterator[list[Caption]]:
    """Takes two batches before it answers the first; the seventh row of all fails."""
    taken: list[Batch] = []
    for batch in batches:
        taken.append(batch)
        if len(taken) == 2:
            yield answer(taken.pop(0))
    while taken:
        yield answer(taken.pop(0))


def answer(batch: Batch) -> list[Caption]:
    images, keys = batch
    assert len(images) == len(keys)
    return [(None, "it is too dark") if key == "0007" else (f"caption of {key}", None) for key in keys]


def test_rows_in_the_order_of_the_images(dataset: Dataset) -> None:
    seen: list[int] = []

    def report(progress: ShardProgress) -> None:
        seen.append(progress.done)

    record = caption_shard(dataset, 0, captioner(), two_ahead, {"torch": "2"}, report)
    rows = pq.read_table(dataset.layer("caption").path(0)).to_pylist()
    assert rows[4] == {
        "key": "0004", "caption": "caption of 0004", "alt_text": "number 4",
        "model": "small@sha256:0123456789ab", "reason": None,
    }  # fmt: skip
    assert [row["key"] for row in rows] == [f"{number:04d}" for number in range(NUM_ROWS)]
    assert rows[3]["alt_text"] is None
    assert (rows[7]["caption"], rows[7]["reason"]) == (None, "captioner_error")
    assert seen == [16, 32, 48, 64, 70]
    assert (record.count, record.successes, record.reasons) == (70, 69, {"captioner_error": 1})
    assert record.status_dict == {"success": 69, "it is too dark": 1}
    assert record.versions["torch"] == "2"
    assert record.inputs["image"].fingerprint == "images"
    assert dataset.layer("caption").record(0) == record


def test_batches_do_not_change_the_file(dataset: Dataset) -> None:
    hashes = {caption_shard(dataset, 0, captioner(size), two_ahead, {}).sha256 for size in (1, 16, 64, 100)}
    assert len(hashes) == 1


def test_nothing_is_left_of_a_shard_that_fails(dataset: Dataset) -> None:
    def broken(batches: Iterable[Batch]) -> Iterator[list[Caption]]:
        for number, batch in enumerate(batches):
            if number == 2:
                raise RuntimeError("the actors are gone")
            yield answer(batch)

    with pytest.raises(RuntimeError, match="gone"):
        caption_shard(dataset, 0, captioner(), broken, {})
    assert dataset.layer("caption").record(0) is None
    assert list(Path(dataset.root, "caption").iterdir()) == []


def test_a_shard_without_images_is_refused(dataset: Dataset) -> None:
    with pytest.raises(StorageError, match="shard 00001 has no images"):
        caption_shard(dataset, 1, captioner(), two_ahead, {})


def test_the_reason_is_one_of_the_list(dataset: Dataset) -> None:
    caption_shard(dataset, 0, captioner(), two_ahead, {})
    record = json.loads(Path(dataset.layer("caption").record_path(0)).read_text())
    assert {Reason(reason) for reason in record["reasons"]} == {Reason.CAPTIONER_ERROR}


def test_the_record_tells_files_and_commits_of_the_weights(
    dataset: Dataset,
) -> None:
    plain = caption_shard(dataset, 0, captioner(), two_ahead, {})
    told = captioner()
    told.model = replace(told.model, files={"small/a.pth": "f" * 64}, commits={"small/a.pth": "c" * 40})
    record = caption_shard(dataset, 0, told, two_ahead, {})
    assert record.unit.config["weights_files"] == {"small/a.pth": "f" * 64}
    assert record.unit.config["weights_commits"] == {"small/a.pth": "c" * 40}
    assert (record.fingerprint, record.sha256) == (plain.fingerprint, plain.sha256)
    assert told.recipe() == captioner().recipe()
