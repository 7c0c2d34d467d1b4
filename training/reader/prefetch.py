"""Batches ahead of the training step: chunks are fetched and rows decoded in threads while the step runs."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from training.batch import Batch
from training.reader.rows import StoredRow

_NUM_FETCHERS = 4


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows of one chunk that one stream of one epoch gives to this rank: what is fetched at once."""

    epoch: int
    stream: int
    chunk: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a batch to be."""

    row: int
    segment: Segment


PlannedBatch = Sequence[Sample]
Fetch = Callable[[], dict[int, StoredRow]]
"""Fetches the rows of one segment, in a thread."""


class Prefetcher:
    """Gives the batches of a plan in order.

    `ahead_rows` rows are planned ahead so that their chunks are on the way; `ahead_batches` batches are decoded ahead.
    Rows that were taken are forgotten, so memory holds the rows of open chunks only. `fetch` is called with each
    segment as it is planned, and what it returns then runs in a thread.
    """

    def __init__(
        self,
        plan: Iterator[PlannedBatch],
        fetch: Callable[[Segment], Fetch],
        assemble: Callable[[Sequence[StoredRow], Sequence[int]], Batch],
        *,
        num_threads: int,
        ahead_rows: int,
    ) -> None:
        self._plan = plan
        self._fetch = fetch
        self._assemble = assemble
        self._ahead_rows = ahead_rows
        self._ahead_batches = 2 * num_threads
        self._planned: deque[PlannedBatch] = deque()
        self._num_planned_rows = 0
        self._fetching: dict[Segment, Future[dict[int, StoredRow]]] = {}
        self._decoding: deque[tuple[PlannedBatch, Future[Batch]]] = deque()
        self._fetchers = ThreadPoolExecutor(_NUM_FETCHERS, thread_name_prefix="fetch")
        self._decoders = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches; an error of a thread is raised at the batch that it belongs to."""
        try:
            while True:
                self._fill()
                samples, decoding = self._decoding.popleft()
                batch = decoding.result()
                self._forget(samples)
                # the next one is on its way before the training step begins
                self._fill()
                yield batch
        finally:
            self.close()

    def close(self) -> None:
        """End the threads; what is under way is finished and thrown away."""
        for pool in (self._fetchers, self._decoders):
            pool.shutdown(wait=True, cancel_futures=True)

    def _fill(self) -> None:
        while len(self._decoding) < self._ahead_batches:
            self._plan_ahead()
            samples = self._planned.popleft()
            self._num_planned_rows -= len(samples)
            fetched = [self._fetching[sample.segment] for sample in samples]
            self._decoding.append((samples, self._decoders.submit(self._decode, samples, fetched)))
        self._plan_ahead()

    def _plan_ahead(self) -> None:
        while not self._planned or self._num_planned_rows < self._ahead_rows:
            samples = next(self._plan)
            self._planned.append(samples)
            self._num_planned_rows += len(samples)
            for sample in samples:
                if sample.segment not in self._fetching:
                    self._fetching[sample.segment] = self._fetchers.submit(self._fetch(sample.segment))

    def _decode(self, samples: PlannedBatch, fetched: Sequence[Future[dict[int, StoredRow]]]) -> Batch:
        rows = [future.result().pop(sample.row) for sample, future in zip(samples, fetched, strict=True)]
        return self._assemble(rows, [sample.segment.epoch for sample in samples])

    def _forget(self, samples: PlannedBatch) -> None:
        """Drop the segments of which every row was taken."""
        for segment in {sample.segment for sample in samples}:
            fetching = self._fetching.get(segment)
            # a later batch may have taken the last row, and the one before it have dropped the segment
            if fetching is not None and not fetching.result():
                del self._fetching[segment]
