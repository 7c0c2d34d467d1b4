"""The order of an epoch: every row once, chunks together, the same everywhere."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.reader.order import epoch_order, grouped, scrambled


@settings(deadline=None, max_examples=50)
@given(
    counts=st.lists(st.integers(0, 64), min_size=1, max_size=8).filter(sum),
    seed=st.integers(-(2**40), 2**40),
    epoch=st.integers(0, 5),
    num_streams=st.integers(1, 9),
)
def test_every_row_once_and_streams_take_turns(counts: list[int], seed: int, epoch: int, num_streams: int) -> None:
    chunks = np.repeat(np.arange(len(counts)) * 64, counts)
    rows = np.concatenate([np.arange(count) + 64 * chunk for chunk, count in enumerate(counts)]).astype(np.int64)
    order = epoch_order(rows, chunks, seed, epoch, num_streams)
    assert sorted(order.rows) == list(rows)
    assert list(order.streams) == [place % num_streams for place in range(len(rows))]
    for stream in range(num_streams):
        # a stream comes back to no chunk that it has left
        visited = order.rows[order.streams == stream] // 64
        changes = visited[1:][visited[1:] != visited[:-1]]
        assert len(set(changes)) == len(changes)


def test_seed_epoch_and_nothing_else_decide() -> None:
    rows = np.arange(640, dtype=np.int64)
    chunks = rows // 64 * 64
    orders = {
        (seed, epoch): tuple(epoch_order(rows, chunks, seed, epoch, 4).rows) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4
    assert orders[1, 1] == tuple(epoch_order(rows, chunks, 1, 1, 4).rows)


def test_the_order_is_that_of_earlier_versions() -> None:
    """A checkpoint's place in an epoch means the same rows for good."""
    assert list(scrambled(np.arange(3, dtype=np.int64), seed=7, epoch=2, purpose=1) % np.uint64(1000)) == [
        528,
        278,
        354,
    ]
    rows = np.arange(100, dtype=np.int64)
    assert list(epoch_order(rows, rows // 64 * 64, 7, 2, 4).rows[:8]) == [86, 83, 35, 16, 84, 67, 33, 48]


def test_shuffled_far_and_near() -> None:
    rows = np.arange(64 * 64, dtype=np.int64)
    order = epoch_order(rows, rows // 64 * 64, 0, 0, 16).rows
    near = order.reshape(-1, 16) // 64
    assert min(len(set(batch)) for batch in near) == 16
    # the mean distance of neighbours of a perfect shuffle is a third of all rows
    assert 0.28 < np.abs(np.diff(order)).mean() / len(rows) < 0.38


@settings(deadline=None, max_examples=50)
@given(
    buckets=st.lists(st.integers(0, 3), min_size=1, max_size=80),
    rows_per_run=st.integers(1, 9),
)
def test_runs_are_of_one_bucket_and_lose_less_than_a_run_of_each(buckets: list[int], rows_per_run: int) -> None:
    rows = np.arange(len(buckets), dtype=np.int64)
    order = epoch_order(rows, rows // 64 * 64, 3, 0, 2)
    of_row = np.array(buckets, np.int32)
    runs = grouped(order, of_row[order.rows], rows_per_run)
    assert len(set(runs.rows)) == len(runs.rows)
    assert all(len(set(of_row[run])) == 1 for run in runs.rows.reshape(-1, rows_per_run))
    for bucket in set(buckets):
        kept, all_of_it = (of_row[runs.rows] == bucket).sum(), buckets.count(bucket)
        assert all_of_it - rows_per_run < kept <= all_of_it
