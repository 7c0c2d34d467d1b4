"""The reader: batches of one rank, endless over epochs, from a position that is part of every checkpoint."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from controlmill.config.training_data import TrainingDataOptions
from controlmill.errors import ConfigError
from storage.dataset import Dataset
from training.batch import Batch
from training.reader.assemble import Assembler, Picture
from training.reader.cache import Cached, caption_source, find_cached
from training.reader.geometry import bucket_sizes, buckets_of
from training.reader.hints import HintKind
from training.reader.index import build_index, layer_statuses, layers_hash
from training.reader.plan import RankPlan, SampleOrder
from training.reader.prefetch import Fetch, Prefetcher, Segment
from training.reader.prompts import StoredPrompts
from training.reader.rows import RowSource, StoredRow

_AHEAD_ROWS_PER_STREAM: Final = 8


class ShardReader:
    """Reads the layers that a run trains on.

    What is in which batch depends on the dataset, the options, `seed` and the position alone: `world_size` ranks see in
    each update together the rows that one process with their batches together would see. The position counts samples
    of all ranks since the beginning of the run, so a run goes on with another number of ranks without skipping or
    repeating a row.

    Raises:
        StorageError: a layer is missing, lacks shards, or is damaged.
        ConfigError: an option does not fit the dataset.
    """

    def __init__(  # noqa: PLR0913 the reader's place in its run
        self,
        options: TrainingDataOptions,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        base_fingerprint: str | None = None,
        gradient_accumulation_steps: int = 1,
        num_probe_rows: int = 0,
        num_probe_shards: int | None = None,
        pin_memory: bool = False,
    ) -> None:
        """Open the layers; no image is read yet.

        Args:
            options: what is read, and how.
            batch_size: rows of a batch of one rank.
            rank: of this process.
            world_size: number of ranks.
            seed: of the order and of all draws.
            base_fingerprint: of the base whose cached layers may serve.
            gradient_accumulation_steps: batches of an update.
            num_probe_rows: rows that are held out.
            num_probe_shards: of the first so many shards: those that there were when the run began.
            pin_memory: whether batches go to a GPU.
        """
        self._options = options
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        self._rows_per_run = batch_size * world_size * gradient_accumulation_steps
        dataset = Dataset.open(options.train_data_dir)
        kinds = self.hint_kinds = tuple(self._hint_kinds(dataset))
        """What the maps of each condition are."""
        captions = caption_source(dataset, options.caption_column, options.image_column)
        names = tuple(dict.fromkeys((options.image_column, *options.condition, captions[0])))
        statuses = layer_statuses(dataset, names)
        self.cached: Cached = find_cached(dataset, options, base_fingerprint, statuses, captions)
        """Which of the base's work the dataset has done already, with a sentence for the user."""
        self._statuses = statuses
        self._index = build_index(
            dataset, options, statuses, seed=seed, num_probe_rows=num_probe_rows, num_probe_shards=num_probe_shards
        )
        self._num_probe_shards = num_probe_shards or len(self._index.shards)
        with_people = {kind.layer for kind in kinds if kind.has_people and options.random_flip}
        conditions = {name: name in with_people for name in options.condition}
        self._source = RowSource(dataset, options.image_column, conditions, captions, statuses, self.cached)
        as_made = {kind.layer: kind.has_people for kind in kinds}
        uncached = replace(self.cached, latents=None, prompts=None)
        self._originals = RowSource(dataset, options.image_column, as_made, captions, statuses, uncached)
        prompts = StoredPrompts(dataset, self.cached.prompts) if self.cached.prompts is not None else None
        buckets = bucket_sizes(options)
        self._assembler = Assembler(options, kinds, buckets, seed, prompts, pin_memory=pin_memory)
        self._seed = seed
        self._order = self._make_order(self._rows_per_run)
        self._prefetcher: Prefetcher | None = None
        self.position = 0
        """Samples of all ranks that were given out since the beginning of the run."""

    @property
    def num_rows(self) -> int:
        """Rows that are trained on."""
        return len(self._index.rows)

    @property
    def samples_per_epoch(self) -> int:
        """Samples of an epoch: all rows, or with aspect buckets those that fill whole updates."""
        return self._order.samples_per_epoch

    @property
    def num_held_out(self) -> int:
        """Rows that are kept for the probe."""
        return len(self._index.held_out)

    @property
    def left_out(self) -> Mapping[str, int]:
        """Rows of the dataset that are not trained on, by cause."""
        return self._index.left_out

    @property
    def epoch(self) -> int:
        """The epoch that the next sample is of."""
        return self.position // self.samples_per_epoch

    @property
    def epochs(self) -> float:
        """Epochs given out, with the part of the present one; one that a growing dataset cut short counts as whole."""
        return self.position / self.samples_per_epoch

    @property
    def rounds(self) -> bool:
        """Whether what is encoded during training is to be rounded as cached layers are (see `as_stored`)."""
        return self._options.cached_layers != "ignore"

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches from the position on, without end; one iterator at a time."""
        plan = RankPlan(self._order, self.position, self._batch_size, self._rank, self._world_size)

        def fetch(segment: Segment) -> Fetch:
            return partial(self._fetch, segment.chunk, plan.wanted(segment))

        prefetcher = self._prefetcher = Prefetcher(
            plan.batches(),
            fetch,
            self._assembler.visit,
            num_threads=self._options.dataloader_num_workers,
            ahead_rows=_AHEAD_ROWS_PER_STREAM * self._options.shuffle_streams,
        )
        try:
            for batch in prefetcher:
                self.position += self._batch_size * self._world_size
                yield batch
        finally:
            prefetcher.close()
            plan.close()

    def peek(self) -> Batch:
        """The batch that comes next, which is not used up; not while an iterator is under way."""
        position, batches = self.position, iter(self)
        try:
            return next(batches)
        finally:
            batches.close()  # type: ignore[attr-defined]  # a generator, whose end closes its threads
            self.position = position

    def held_out(self, num_rows: int | None = None) -> Batch:
        """The rows that are kept for the probe, the first `num_rows` of them: middle of the image, with their prompts.

        Raises:
            ConfigError: none are kept, or fewer than `num_rows`.
        """
        return self._assembler.probe(self._fetch_held_out(self._source, num_rows))

    def held_out_pictures(self, num_rows: int | None = None) -> list[Picture]:
        """The same rows as an annotator sees them, with the maps that it made, whatever is cached.

        Raises:
            ConfigError: none are kept, or fewer than `num_rows`.
        """
        return self._assembler.pictures(self._fetch_held_out(self._originals, num_rows))

    def state_dict(self) -> dict[str, Any]:
        """The position, the same on every rank, as JSON holds it."""
        return {
            "epoch": self.epoch,
            "sample": self.position % self.samples_per_epoch,
            "samples_per_epoch": self.samples_per_epoch,
            "seed": self._seed,
            "rows_per_run": self._order.rows_per_run,
            "dataset": self._index.fingerprint,
            "num_shards": len(self._index.shards),
            "num_probe_shards": self._num_probe_shards,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict` of a run with any number of ranks.

        Where the dataset has new shards behind the old ones, the next epoch begins: of old and new rows together.

        Raises:
            ConfigError: dataset, rows or order are not those of that run, so its place in the epoch means nothing here.
        """
        if state["rows_per_run"] != self._order.rows_per_run:
            self._order = self._make_order(int(state["rows_per_run"]))
        now = self.state_dict()
        if state["seed"] == now["seed"] and self._has_grown(state):
            self.position = (int(state["epoch"]) + (state["sample"] > 0)) * self.samples_per_epoch
            return
        for name, meaning in (
            ("dataset", "the layers of the dataset have changed since the checkpoint"),
            ("seed", "seed"),
            ("samples_per_epoch", "rows to train on"),
        ):
            if state[name] != now[name]:
                values = "" if name == "dataset" else f": {state[name]} in the checkpoint, {now[name]} now"
                raise ConfigError(f"resume_from_checkpoint: {meaning}{values}; its place in the epoch is of no use")
        self.position = int(state["epoch"]) * self.samples_per_epoch + int(state["sample"])

    def _has_grown(self, state: Mapping[str, Any]) -> bool:
        """Whether there are shards behind those of `state`, and those are what they were."""
        num_shards = int(state.get("num_shards", len(self._index.shards)))
        is_part = num_shards < len(self._index.shards)
        return is_part and bool(state["dataset"] == layers_hash(self._statuses, num_shards))

    def close(self) -> None:
        """End the threads of an iterator that is under way, and close files."""
        if self._prefetcher is not None:
            self._prefetcher.close()
        self._source.close()
        self._originals.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hint_kinds(self, dataset: Dataset) -> list[HintKind]:
        kinds = []
        for name in self._options.condition:
            layer = dataset.layer(name)
            shards = layer.committed()
            if shards:
                first = min(shards)
                record = layer.record(first)
                options = record.unit.config if record else None
                kinds.append(HintKind.of(name, layer.schema(first), options))
        return kinds

    def _make_order(self, rows_per_run: int) -> SampleOrder:
        options, index = self._options, self._index
        if not options.enable_bucket:
            # what is recorded stays the same whatever the number of ranks
            return SampleOrder(index, self._seed, options.shuffle_streams)
        global_batch = self._batch_size * self._world_size
        if rows_per_run % global_batch:
            raise ConfigError(
                f"enable_bucket: updates of {rows_per_run} rows of one bucket cannot be cut into batches of "
                f"{self._batch_size} rows for {self._world_size} workers; choose a train_batch_size so that they can"
            )
        buckets = buckets_of(index.sizes, bucket_sizes(options))
        return SampleOrder(index, self._seed, options.shuffle_streams, buckets, rows_per_run)

    def _fetch_held_out(self, source: RowSource, num_rows: int | None) -> list[StoredRow]:
        rows = self._index.held_out
        wanted = len(rows) if num_rows is None else num_rows
        if not 0 < wanted <= len(rows):
            raise ConfigError(
                f"num_probe_rows: {wanted} rows are wanted for the probe and {len(rows)} are held out, at most a tenth "
                "of the dataset; lower num_probe_rows"
            )
        chosen = [int(row) for row in rows[:wanted]]
        return [self._fetch(self._index.chunk_of(row), [row], source)[row] for row in chosen]

    def _fetch(self, chunk: int, rows: list[int], source: RowSource | None = None) -> dict[int, StoredRow]:
        """Rows of one chunk by their number."""
        shard, start = self._index.locate(chunk)
        first = chunk - start
        stop = self._index.chunk_stop(chunk) - first
        fetched = (source or self._source).fetch(shard, start, stop, [row - first for row in rows])
        return {place + first: row for place, row in fetched.items()}
