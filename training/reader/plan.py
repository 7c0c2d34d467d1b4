"""Which row is in which batch of which rank: one endless sequence of samples over all epochs.

The rows that an epoch ends with and that fill no batch begin the next one: no row is dropped and no batch is short, so
update k has the samples kG to (k + 1)G of the sequence whatever the number of ranks that share the G rows. With aspect
buckets, whose batches must have one size, an epoch ends with its last full run instead.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from controlmill.errors import ConfigError
from training.reader.index import DatasetIndex
from training.reader.order import EpochOrder, epoch_order, grouped
from training.reader.prefetch import PlannedBatch, Sample, Segment


@dataclass(frozen=True)
class SampleOrder:
    """The sequence of samples, rank-independent."""

    index: DatasetIndex
    seed: int
    num_streams: int
    buckets: NDArray[np.int32] | None = None
    """Bucket of each row to train on; None where all rows are cut to one size."""
    rows_per_run: int = 1
    """Rows in a row that are of one bucket."""
    samples_per_epoch: int = field(init=False)

    def __post_init__(self) -> None:
        num_samples = len(self.index.rows)
        if self.buckets is not None:
            counts = np.bincount(self.buckets)
            num_samples = int((counts // self.rows_per_run * self.rows_per_run).sum())
            if num_samples == 0:
                raise ConfigError(
                    f"enable_bucket: no bucket has the {self.rows_per_run} rows of one update (the largest has "
                    f"{counts.max()}); lower train_batch_size or gradient_accumulation_steps"
                )
        object.__setattr__(self, "samples_per_epoch", num_samples)

    def epoch(self, epoch: int) -> EpochOrder:
        """All samples of an epoch."""
        index = self.index
        order = epoch_order(index.rows, index.chunks, self.seed, epoch, self.num_streams)
        if self.buckets is None:
            return order
        return grouped(order, self.buckets[np.searchsorted(index.rows, order.rows)], self.rows_per_run)


class RankPlan:
    """The batches of one rank from a position on, and which rows of a chunk it needs."""

    def __init__(self, order: SampleOrder, start: int, batch_size: int, rank: int, world_size: int) -> None:
        """`start`: sample of the sequence that the first batch of all ranks begins with."""
        self._order = order
        self._start = start
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        self._epochs: dict[int, _RankEpoch] = {}
        # the order of the next epoch is made while the present one is read
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="order")
        self._next: Future[EpochOrder] | None = None

    def batches(self) -> Iterator[PlannedBatch]:
        """The rows of each batch of this rank, endless."""
        at = self._start
        while True:
            for done in [number for number in self._epochs if number < at // self._order.samples_per_epoch]:
                del self._epochs[done]
            samples = [at + number * self._world_size + self._rank for number in range(self._batch_size)]
            yield [self._sample(sample) for sample in samples]
            at += self._batch_size * self._world_size

    def wanted(self, segment: Segment) -> list[int]:
        """The rows of a segment of the last batch that this rank has not had before, ascending."""
        epoch = self._epochs[segment.epoch]
        stop = self._order.index.chunk_stop(segment.chunk)
        return [
            int(row) + segment.chunk for row in np.flatnonzero(epoch.stream_of[segment.chunk : stop] == segment.stream)
        ]

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _sample(self, sample: int) -> Sample:
        number, place = divmod(sample, self._order.samples_per_epoch)
        epoch = self._epochs.get(number) or self._begin(number)
        row, stream = int(epoch.order.rows[place]), int(epoch.order.streams[place])
        return Sample(row, Segment(number, stream, self._order.index.chunk_of(row)))

    def _begin(self, number: int) -> "_RankEpoch":
        order = self._next.result() if self._next is not None else self._order.epoch(number)
        self._next = self._pool.submit(self._order.epoch, number + 1)
        first = number * self._order.samples_per_epoch
        mine = np.arange(len(order.rows), dtype=np.int64) + (first - self._start)
        mine = (mine >= 0) & (mine % self._world_size == self._rank)
        stream_of = np.full(int(self._order.index.first_rows[-1]), -1, np.int32)
        stream_of[order.rows[mine]] = order.streams[mine]
        self._epochs[number] = _RankEpoch(order, stream_of)
        return self._epochs[number]


@dataclass(frozen=True, slots=True)
class _RankEpoch:
    order: EpochOrder
    stream_of: NDArray[np.int32]
    """Stream by row, -1 where the row is another rank's or was had before."""
