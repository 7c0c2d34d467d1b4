"""Caption one shard from its stored images: batches out, captions in, rows in the order of the images."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa

from controlmill.errors import StorageError
from controlmill.reasons import Reason
from storage.dataset import Dataset
from storage.record import CommitRecord, LayerInput, UnitDescription
from storage.writer import ShardWriter
from tasks.captioners.base import LAYER, Captioner
from tasks.progress import Report, ShardProgress, ignore
from tasks.recipe import caption_fingerprint
from tasks.shard_files import record_fields

Batch = tuple[list[bytes], list[str]]
"""Encoded images and their keys."""
Caption = tuple[str | None, str | None]
"""A caption and None, or None and what failed: what every interpreter can pickle."""
CaptionAll = Callable[[Iterable[Batch]], Iterator[list[Caption]]]
"""Captions all batches, in their order; it may take several batches before it gives the captions of the first."""

_NUM_MESSAGES = 20

SCHEMA = pa.schema([pa.field(name, pa.string()) for name in ("key", "caption", "alt_text", "model", "reason")])
"""The image's key, the caption, the caption of the source, the weights, and why there is no caption."""


def caption_shard(
    dataset: Dataset,
    shard: int,
    captioner: Captioner,
    caption_all: CaptionAll,
    versions: dict[str, str],
    report: Report = ignore,
) -> CommitRecord:
    """Make the `caption` layer of a shard whose images are committed; returns its commit record.

    Args:
        dataset: where it is.
        shard: its number.
        captioner: what the record tells of how the captions were made.
        caption_all: where the captions come from.
        versions: of the libraries that `caption_all` works with.
        report: called as rows are done.

    Raises:
        StorageError: the images are not there, or the layer cannot be written.
    """
    images = dataset.layer("image")
    made_from = images.record(shard)
    if made_from is None:
        raise StorageError(f"{dataset.uri}: shard {shard:05d} has no images to caption; run `controlmill build` first")
    waiting: deque[list[dict[str, Any]]] = deque()

    def batches() -> Iterator[Batch]:
        for rows in _in_batches(images.iter_batches(shard, ["key", "caption", "image"]), captioner.options.batch_size):
            waiting.append([{"key": row["key"], "alt_text": row["caption"]} for row in rows])
            yield [row["image"]["bytes"] for row in rows], [row["key"] for row in rows]

    with ShardWriter(dataset, LAYER, shard, SCHEMA) as writer:
        file = _CaptionFile(writer, shard, captioner)
        for captions in caption_all(batches()):
            file.write(waiting.popleft(), captions)
            report(file.progress)
        return file.commit(LayerInput(fingerprint=made_from.fingerprint, sha256=made_from.sha256), versions)


def _in_batches(stored: Iterable[pa.RecordBatch], size: int) -> Iterator[list[dict[str, Any]]]:
    """The rows of a shard in batches that depend on its rows only, not on its row groups."""
    rows: list[dict[str, Any]] = []
    for part in stored:
        for row in part.to_pylist():
            rows.append(row)
            if len(rows) == size:
                yield rows
                rows = []
    if rows:
        yield rows


class _CaptionFile:
    """The file of a shard's captions, and what is counted about it."""

    def __init__(self, writer: ShardWriter, shard: int, captioner: Captioner) -> None:
        self.progress = ShardProgress(shard)
        self._writer = writer
        self._captioner = captioner
        self._messages: Counter[str] = Counter()
        self._started_s = time.time()

    def write(self, planned: list[dict[str, Any]], made: list[Caption]) -> None:
        """Append rows, in order."""
        label = self._captioner.model.label
        rows = []
        for row, (caption, failed) in zip(planned, made, strict=True):
            reason = None if failed is None else Reason.CAPTIONER_ERROR
            rows.append({**row, "caption": caption, "model": label, "reason": reason})
            self.progress.add(reason)
            self._messages.update([] if failed is None else [failed])
        self._writer.write(pa.RecordBatch.from_pylist(rows, SCHEMA))

    def commit(self, image: LayerInput, versions: dict[str, str]) -> CommitRecord:
        """Make the file visible and record it as made from the images `image`."""
        progress, captioner = self.progress, self._captioner
        num_failed = progress.failed.total()
        fields = record_fields(LAYER, progress.shard, self._writer.close(), self._started_s)
        told = {"weights_files": dict(captioner.model.files), "weights_commits": dict(captioner.model.commits)}
        config = {
            **captioner.recipe(),
            "batch_size": captioner.options.batch_size,
            **{name: value for name, value in told.items() if value},
        }
        record = CommitRecord(
            **{**fields, "versions": {**fields["versions"], **versions}},
            count=progress.done,
            successes=progress.done - num_failed,
            status_dict={"success": progress.done - num_failed, **dict(self._messages.most_common(_NUM_MESSAGES))},
            fingerprint=caption_fingerprint(captioner, image.fingerprint),
            inputs={"image": image},
            reasons={reason.value: num for reason, num in progress.failed.items()},
            unit=UnitDescription(name=captioner.name, version=captioner.version, config=config),
        )
        self._writer.commit(record)
        return record
