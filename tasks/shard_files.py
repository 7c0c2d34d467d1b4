"""The files of one shard while it is made: one writer per layer, committed together, the image layer last."""

import time
from collections import Counter
from contextlib import ExitStack
from importlib.metadata import version
from types import TracebackType
from typing import Any, Literal, Self

from controlmill.config import ShardOptions
from controlmill.reasons import RowFailure, img2dataset_status
from storage.dataset import Dataset
from storage.layer import FAILURES
from storage.record import CommitRecord, LayerInput, UnitDescription
from storage.schema import extra_fields, failure_schema, image_schema, layer_schema
from storage.writer import ShardWriter, WrittenFile
from tasks.annotators.base import Annotator
from tasks.recipe import IMAGE_VERSION, image_fingerprint, image_recipe, layer_fingerprint
from tasks.rows import FinishedRow, Map, SourceRow, failure_batch, host_of, image_batch, map_batch

_LIBRARIES = ("controlmill", "pyarrow", "opencv-python-headless", "simplejpeg", "pillow", "numpy")
_NUM_HOSTS = 20
_NUM_MESSAGES = 20

Outcome = FinishedRow | tuple[SourceRow, RowFailure]


class LayerFile:
    """One annotator's file of a shard, and what is counted about it.

    `pixels` is told in the record: "resized" before they were encoded, "stored" after. A JPEG between the two changes a
    map a little; the layer counts as the same.
    """

    def __init__(
        self, stack: ExitStack, dataset: Dataset, shard: int, annotator: Annotator, pixels: Literal["resized", "stored"]
    ) -> None:
        self._pixels = pixels
        self._annotator = annotator
        self._schema = layer_schema(annotator.columns(), annotator.metadata())
        self._writer = stack.enter_context(ShardWriter(dataset, annotator.name, shard, self._schema))
        self._shard = shard
        self._num_rows = 0
        self._reasons: Counter[str] = Counter()
        self._messages: Counter[str] = Counter()
        self._flags: Counter[str] = Counter(dict.fromkeys(annotator.flags, 0))
        self._started_s = time.time()

    def write(self, keys: list[str], maps: list[Map]) -> None:
        """Append the maps of rows, in order."""
        self._writer.write(map_batch(keys, maps, self._schema))
        self._num_rows += len(maps)
        for made in maps:
            if made.reason is not None:
                self._reasons[made.reason] += 1
                self._messages[made.message or made.reason] += 1
            for flag in self._annotator.flags:
                self._flags[flag] += bool(made.columns.get(flag))

    def commit(self, image: LayerInput) -> CommitRecord:
        """Make the file visible and record it as made from the images `image`."""
        written = self._writer.close()
        annotator = self._annotator
        fields = record_fields(annotator.name, self._shard, written, self._started_s)
        num_made = self._num_rows - self._reasons.total()
        commits = {str(found.file): found.commit for found in annotator.find_weights() if found.commit}
        config = {**annotator.recipe(), "pixels": self._pixels, **({"weights_commits": commits} if commits else {})}
        record = CommitRecord(
            **{**fields, "versions": {**fields["versions"], **annotator.versions()}},
            count=self._num_rows,
            successes=num_made,
            status_dict={"success": num_made, **dict(self._messages.most_common(_NUM_MESSAGES))},
            fingerprint=layer_fingerprint(annotator, image.fingerprint),
            inputs={"image": image},
            reasons=dict(self._reasons),
            unit=UnitDescription(name=annotator.name, version=annotator.version, config=config),
            flags=dict(self._flags),
        )
        self._writer.commit(record)
        return record


class ShardFiles:
    """Images, annotators' layers and failures of one shard; leaving the `with` block uncommitted leaves nothing."""

    def __init__(self, dataset: Dataset, shard: int, config: ShardOptions, annotators: list[Annotator]) -> None:
        self.dataset = dataset
        self.shard = shard
        self._config = config
        self._annotators = annotators
        self._stack = ExitStack()
        self._failed: list[tuple[SourceRow, RowFailure]] = []
        self._num_images = 0
        self._started_s = time.time()

    def __enter__(self) -> Self:
        source = self.dataset.layer("source")
        extra = extra_fields(source.schema(self.shard))
        self._image_schema = image_schema(self._config, extra)
        self._failure_schema = failure_schema(extra)
        with ExitStack() as stack:
            self._image = stack.enter_context(ShardWriter(self.dataset, "image", self.shard, self._image_schema))
            self._layers = {
                unit.name: LayerFile(stack, self.dataset, self.shard, unit, "resized") for unit in self._annotators
            }
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def write(self, outcomes: list[Outcome]) -> None:
        """Append rows in source order; failed ones go to the failures file."""
        self._failed += [outcome for outcome in outcomes if isinstance(outcome, tuple)]
        finished = [outcome for outcome in outcomes if isinstance(outcome, FinishedRow)]
        if not finished:
            return
        config = self._config
        self._image.write(image_batch(finished, self._image_schema, config.encode_format, config.compute_hash))
        self._num_images += len(finished)
        keys = [row.row.key for row in finished]
        for name, layer in self._layers.items():
            layer.write(keys, [row.maps[name] for row in finished])

    def commit(self) -> list[CommitRecord]:
        """Make the shard visible: failures, annotators' layers, then the images, whose record says it is done.

        Returns the records, that of the images first.
        """
        written = self._image.close()
        image = LayerInput(fingerprint=image_fingerprint(image_recipe(self._config)), sha256=written.sha256)
        failures = self._write_failures()
        of_layers = [layer.commit(image) for layer in self._layers.values()]
        record = self._record(written, image.fingerprint, failures.sha256)
        self._image.commit(record)
        return [record, *of_layers]

    def _write_failures(self) -> WrittenFile:
        with ShardWriter(self.dataset, FAILURES, self.shard, self._failure_schema) as writer:
            writer.write(failure_batch(self._failed, self._failure_schema))
            written = writer.close()
            writer.commit(None)
        return written

    def _record(self, written: WrittenFile, fingerprint: str, failures_sha256: str) -> CommitRecord:
        statuses = Counter(img2dataset_status(failure.reason) for _, failure in self._failed)
        hosts = Counter(host for row, _ in self._failed if (host := host_of(row.url)))
        source = self.dataset.layer("source").record(self.shard)
        return CommitRecord(
            **record_fields("image", self.shard, written, self._started_s),
            count=self._num_images + len(self._failed),
            successes=self._num_images,
            failed_to_download=statuses["failed_to_download"],
            failed_to_resize=statuses["failed_to_resize"],
            status_dict=self._status_dict(),
            fingerprint=fingerprint,
            inputs={"source": LayerInput(fingerprint=source.fingerprint, sha256=source.sha256)} if source else {},
            reasons=dict(Counter(failure.reason for _, failure in self._failed)),
            hosts=dict(hosts.most_common(_NUM_HOSTS)),
            unit=UnitDescription(name="image", version=IMAGE_VERSION, config=image_recipe(self._config)),
            failures_sha256=failures_sha256,
        )

    def _status_dict(self) -> dict[str, int]:
        """As img2dataset counts: "success", and one entry per error; ours are the closed list of reasons."""
        counts = Counter(str(failure.reason) for _, failure in self._failed)
        return {"success": self._num_images, **counts}


def record_fields(layer: str, shard: int, written: WrittenFile, started_s: float) -> dict[str, Any]:
    """The fields of a commit record that are the same for every layer."""
    ended_s = time.time()
    return {
        "layer": layer,
        "shard": shard,
        "rows": written.num_rows,
        "num_bytes": written.num_bytes,
        "sha256": written.sha256,
        "duration": ended_s - started_s,
        "start_time": started_s,
        "end_time": ended_s,
        "versions": {name: version(name) for name in _LIBRARIES},
    }
