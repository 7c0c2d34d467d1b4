import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.sources.shards import cut, key_digits, keys


@pytest.mark.parametrize(
    ("size", "digits"), [(1, 1), (2, 1), (10, 1), (11, 2), (100, 2), (500, 3), (1000, 3), (10_000, 4), (10_001, 5)]
)
def test_digits_are_those_of_img2dataset(size: int, digits: int) -> None:
    assert key_digits(size) == digits


def test_keys() -> None:
    assert keys(0, 2, 10_000).to_pylist() == ["000000000", "000000001"]
    assert keys(12, 3, 500).to_pylist() == ["00012000", "00012001", "00012002"]
    assert keys(123_456, 1, 10).to_pylist() == ["1234560"]


@given(sizes=st.lists(st.integers(0, 7), max_size=8), num_rows=st.integers(1, 6))
def test_tables_are_full_but_the_last(sizes: list[int], num_rows: int) -> None:
    values = iter(range(100))
    batches = [pa.record_batch({"n": pa.array([next(values) for _ in range(size)], pa.int64())}) for size in sizes]
    tables = list(cut(iter(batches), num_rows))
    total = sum(sizes)
    full, rest = divmod(total, num_rows)
    assert [table.num_rows for table in tables] == [num_rows] * full + ([rest] if rest else [])
    assert [value for table in tables for value in table.column("n").to_pylist()] == list(range(total))
