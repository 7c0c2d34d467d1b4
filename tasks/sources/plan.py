"""Planning: the rows of a source become source shards, once; afterwards the source is only compared with them."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from controlmill.config.source import SourceOptions
from controlmill.errors import CorruptShardError, DatasetMismatchError, SourceEmptyError
from storage.dataset import Dataset
from storage.description import PlanEntry, SourceDescription
from storage.filesystem import redact
from storage.schema import check_extra_columns
from tasks.in_order import in_threads
from tasks.sources.base import REMEDIES, News, Planned, Source, changed, grown
from tasks.sources.files import FileSource
from tasks.sources.image_folder import ImageFolder
from tasks.sources.img2dataset import Img2dataset
from tasks.sources.retry import plan_retry
from tasks.sources.shards import LAYER, SourceShards, cut
from tasks.sources.url_list import UrlList

__all__ = ["check_source", "open_source", "plan", "plan_retry", "start_again"]

_WRITERS_LOCAL, _WRITERS_REMOTE = 2, 8
"""Source shards that are written at once: an object store answers many; on a disk more only wait for each other."""


def plan(dataset: Dataset, config: SourceOptions) -> Iterator[int]:
    """Write the source shards that are missing; yield every shard once its source shard is committed.

    What was planned before comes first (retries included), without reading a source that has not changed. Everything
    that can be refused is refused before the iterator is returned, except for a source that ends without a row or
    is cut in its middle. Memory is bounded by a few shards and batches.

    Raises:
        ConfigError: an additional column has the name of one of ours.
        SourceMissingError: no such file, folder or column, or it cannot be read.
        SourceEmptyError: there is not one row in it.
        SourceChangedError: it is not what the dataset was started from; the message says what has changed.
        DatasetMismatchError: the dataset was started with other source options, or this folder is no dataset.
        StorageWriteError: the dataset cannot be written.
    """
    check_extra_columns(config.save_additional_columns)
    source = open_source(config)
    state = _state(dataset, config)
    schema = _planned_schema(dataset, state) or source.schema()
    complete = [entry for entry in state.history if entry.complete]
    news = source.news(_planned(dataset, state), schema)
    if complete and news.changes and config.incremental_mode != "extend":
        raise grown(source.label, news.changes)
    if not state.history and not any(batch.num_rows for batch in news.iter_rows(schema)):
        raise SourceEmptyError(f"{source.label} holds not one row")
    Dataset.create(dataset.uri)  # refuses a folder of something else
    if config.incremental_mode == "overwrite":
        options = dataset.description().options
        start_again(dataset)
        dataset.describe(options=options)
    return _Plan(dataset, source.label, state, news, schema).run()


def open_source(config: SourceOptions) -> Source:
    """The source that the options name; nothing is read yet."""
    if config.image_folder is not None:
        return ImageFolder(config)
    return FileSource(Img2dataset(config) if config.from_img2dataset is not None else UrlList(config))


def check_source(config: SourceOptions) -> None:
    """Refuse a source that is not there, lacks a column or cannot be read at its beginning, before anything is deleted.

    Raises:
        ConfigError, SourceMissingError: as `plan`.
    """
    check_extra_columns(config.save_additional_columns)
    open_source(config).schema()


def start_again(dataset: Dataset) -> None:
    """Delete everything that controlmill made in a dataset, its options included; nothing where there is no dataset.

    Raises:
        DatasetMismatchError: the folder holds something else, and nothing is deleted.
    """
    Dataset.create(dataset.uri).delete_layers()


def _state(dataset: Dataset, config: SourceOptions) -> SourceDescription:
    """What is planned, checked against the options; nothing if the dataset is to be overwritten."""
    options = _options(config)
    if config.incremental_mode == "overwrite":
        return SourceDescription(options=options)
    description = dataset.read_description()
    if description is None or description.source is None:
        return SourceDescription(options=options)
    for name, value in options.items():
        started = description.source.options.get(name)
        if started != value:
            raise DatasetMismatchError(
                f"{name} is {value!r}, and was {started!r} when {redact(dataset.uri)} was started: "
                f"use that; or {REMEDIES}"
            )
    return description.source


def _options(config: SourceOptions) -> dict[str, Any]:
    """The options that decide about rows and shards, as JSON has them."""
    kinds = ("url_list", "image_folder", "from_img2dataset")
    return {
        "source": next(kind for kind in kinds if getattr(config, kind) is not None),
        "url_col": config.url_col,
        "caption_col": config.caption_col,
        "save_additional_columns": list(config.save_additional_columns),
        "verify_hash": list(config.verify_hash) if config.verify_hash else None,
        "number_sample_per_shard": config.number_sample_per_shard,
    }


def _planned_schema(dataset: Dataset, state: SourceDescription) -> pa.Schema | None:
    """The schema of the shards that are there: types told from the first rows stay what they are."""
    layer = dataset.layer(LAYER)
    first = state.history[0].first_shard if state.history else None
    return layer.schema(first) if first is not None and layer.exists(first) else None


def _planned(dataset: Dataset, state: SourceDescription) -> Planned:
    entries = [entry for entry in state.history if entry.complete]

    def iter_runs() -> list[Iterator[tuple[str, str | None]]]:
        return [_iter_rows(dataset, entry) for entry in entries]

    return Planned(state.files, iter_runs)


def _iter_rows(dataset: Dataset, entry: PlanEntry) -> Iterator[tuple[str, str | None]]:
    for shard in range(entry.first_shard, entry.first_shard + entry.num_shards):
        for batch in dataset.layer(LAYER).iter_batches(shard, columns=["url", "caption"], batch_rows=16_384):
            yield from zip(batch.column("url").to_pylist(), batch.column("caption").to_pylist(), strict=True)


@dataclass
class _Plan:
    """One run of the planner, after all checks."""

    dataset: Dataset
    label: str
    state: SourceDescription
    news: News
    schema: pa.Schema

    def run(self) -> Iterator[int]:
        """Yield the shards of earlier plans, then those of the new rows."""
        committed = self.dataset.layer(LAYER).statuses(remember=True)
        history = self.state.history
        for entry in history:
            lost = set(range(entry.first_shard, entry.first_shard + entry.num_shards)) - committed.keys()
            if entry.complete and lost:
                path = redact(self.dataset.layer(LAYER).path(min(lost)))
                raise CorruptShardError(
                    f"{path} is missing or has no record, though it was planned: restore it; or {REMEDIES}"
                )
        if history and not history[-1].complete:
            entry = history[-1]
        elif self.news.changes or not history:
            entry = PlanEntry(kind="extend" if history else "plan", first_shard=max(committed, default=-1) + 1)
            self._describe(self.state.model_copy(update={"history": [*history, entry]}))
        else:
            self._describe(self.state.model_copy(update={"files": self.news.files()}))
            yield from sorted(committed)
            return
        yield from sorted(shard for shard in committed if shard < entry.first_shard)
        yield from self._run_entry(
            entry, {shard: committed[shard] for shard in committed if shard >= entry.first_shard}
        )

    def _run_entry(self, entry: PlanEntry, committed: dict[int, Any]) -> Iterator[int]:
        size = int(self.state.options["number_sample_per_shard"])
        shards = SourceShards(self.dataset, size, entry.kind, self.state.options)

        def commit(piece: tuple[int, pa.Table]) -> int:
            number, rows = piece
            shard = entry.first_shard + number
            agrees = shards.agrees(shard, rows, committed)
            if agrees is False:
                first = number * size
                raise changed(self.label, f"its rows {first + 1:,} to {first + rows.num_rows:,} are not those of "
                              f"shard {shard:05d}, which was planned before the build was interrupted")  # fmt: skip
            if agrees is None:
                shards.write(shard, rows)
            return int(rows.num_rows)

        num_rows = num_shards = 0
        # closed at the latest when this generator is: nothing is written after it
        writers = _WRITERS_LOCAL if self.dataset.files.is_local else _WRITERS_REMOTE
        with closing(in_threads(enumerate(cut(self.news.iter_rows(self.schema), size)), commit, writers)) as written:
            for num_written in written:
                num_rows += num_written
                num_shards += 1
                yield entry.first_shard + num_shards - 1
        surplus = [shard for shard in committed if shard >= entry.first_shard + num_shards]
        if surplus:
            raise changed(self.label, f"it ended after {num_rows:,} new rows, and more were planned before the build "
                          "was interrupted")  # fmt: skip
        self._finish(entry, num_shards, num_rows)

    def _finish(self, entry: PlanEntry, num_shards: int, num_rows: int) -> None:
        earlier = [old for old in self.state.history if old.first_shard != entry.first_shard]
        done = entry.model_copy(update={"num_shards": num_shards, "rows": num_rows, "complete": True})
        history = [*earlier, done] if num_shards else earlier
        self._describe(self.state.model_copy(update={"history": history, "files": self.news.files()}))

    def _describe(self, state: SourceDescription) -> None:
        self.dataset.describe(source=state)
