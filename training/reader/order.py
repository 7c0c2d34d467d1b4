"""The order of an epoch: a function of the seed, the epoch and the rows, and of nothing else.

Rows are shuffled in two steps. Chunks (ranges of 64 rows of a shard, the size of its row groups) come in random order,
and the rows of a chunk in random order. The sequence is then cut into a fixed number of streams that take turns: sample
p of the epoch is the next row of stream p mod N. So each batch holds rows from many places, while only one chunk of
each stream has to be in memory.

Rank r of W takes the samples p with p mod W = r. Where W divides N these are whole streams, and every chunk is read by
one rank; any other W gives the same samples in the same batches and reads some chunks more than once. This follows the
idea of elastic determinism in mosaicml-streaming.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

ROWS_PER_CHUNK: Final = 64

Rows = NDArray[np.int64]
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class EpochOrder:
    """All samples of an epoch, in order."""

    rows: Rows
    """Row of each sample."""
    streams: NDArray[np.int32]
    """Stream that each sample comes from."""


def epoch_order(rows: Rows, chunks: Rows, seed: int, epoch: int, num_streams: int) -> EpochOrder:
    """The order of one epoch.

    Args:
        rows: numbers of the rows to train on, ascending.
        chunks: the chunk that each of them is in, ascending.
        seed: of the run.
        epoch: its number.
        num_streams: streams that take turns.
    """
    by_chunk = scrambled(chunks, seed, epoch, purpose=1)
    by_row = scrambled(rows, seed, epoch, purpose=2)
    # equal hashes of two chunks would mix their rows: harmless, but the chunk decides before the row does
    sequence = np.lexsort((by_row, chunks, by_chunk))
    num_rows = len(rows)
    positions = np.arange(num_rows, dtype=np.int64)
    streams = positions % num_streams
    least, more = divmod(num_rows, num_streams)
    # the first streams have one row more, so that the turns end even
    starts = streams * least + np.minimum(streams, more)
    return EpochOrder(rows[sequence[starts + positions // num_streams]], streams.astype(np.int32))


def grouped(order: EpochOrder, buckets: NDArray[np.int32], rows_per_run: int) -> EpochOrder:
    """The same samples in runs of `rows_per_run` whose rows are in one bucket; `buckets` is that of each sample.

    A run stands where its last row stood. Rows that fill no run of their bucket are left out of this epoch: fewer than
    `rows_per_run` of each bucket, in each epoch others.
    """
    runs = [np.empty((0, rows_per_run), np.int64)]
    for bucket in np.unique(buckets):
        members = np.flatnonzero(buckets == bucket)
        num_runs = len(members) // rows_per_run
        runs.append(members[: num_runs * rows_per_run].reshape(num_runs, rows_per_run))
    all_runs = np.concatenate(runs)
    sequence = all_runs[np.argsort(all_runs[:, -1])].ravel()
    return EpochOrder(order.rows[sequence], order.streams[sequence])


def scrambled(numbers: Rows, seed: int, epoch: int, purpose: int) -> NDArray[np.uint64]:
    """64 bits for each number that look random, the same with every version of NumPy: rounds of splitmix64."""
    state = np.uint64(0)
    for value in (seed, epoch, purpose):
        state = _mix(np.asarray([state]) + _unsigned(value))[0]
    return _mix(_mix(numbers.astype(np.uint64) + state))


def _unsigned(value: int) -> np.uint64:
    return np.uint64(value & 0xFFFFFFFFFFFFFFFF)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixed: NDArray[np.uint64] = values + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
