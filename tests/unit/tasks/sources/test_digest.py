import itertools
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.sources.digest import RowsDigest

SCHEMA = pa.schema(
    [
        pa.field("url", pa.string()),
        pa.field("large", pa.large_string()),
        pa.field("flag", pa.bool_()),
        pa.field("n", pa.int16()),
        pa.field("hash", pa.binary(2)),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("point", pa.struct([pa.field("x", pa.float64()), pa.field("name", pa.string())])),
        pa.field("map", pa.map_(pa.string(), pa.int8())),
    ]
)

text = st.text(max_size=4)
rows = st.fixed_dictionaries(
    {
        "url": st.none() | text,
        "large": st.none() | text,
        "flag": st.none() | st.booleans(),
        "n": st.none() | st.integers(-5, 5),
        "hash": st.none() | st.binary(min_size=2, max_size=2),
        "tags": st.none() | st.lists(st.none() | text, max_size=3),
        "point": st.none() | st.fixed_dictionaries({"x": st.none() | st.floats(-1, 1), "name": st.none() | text}),
        "map": st.none() | st.lists(st.tuples(text, st.integers(0, 9)), max_size=2),
    }
)


def batch_of(values: list[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(values, SCHEMA)


def digest(*batches: pa.RecordBatch) -> str:
    running = RowsDigest()
    for batch in batches:
        running.update(batch)
    return running.hexdigest()


@given(values=st.lists(rows, min_size=1, max_size=12), data=st.data())
def test_it_does_not_depend_on_the_batches(values: list[dict[str, Any]], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    edges = [0, *cuts, len(values)]
    whole = batch_of(values)
    made_apart = [batch_of(values[start:stop]) for start, stop in itertools.pairwise(edges)]
    sliced = [whole.slice(start, stop - start) for start, stop in itertools.pairwise(edges)]
    assert digest(*made_apart) == digest(whole)
    assert digest(*sliced) == digest(whole)


@given(values=st.lists(rows, min_size=1, max_size=6), other=st.lists(rows, min_size=1, max_size=6))
def test_other_rows_have_another_digest(values: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    one, two = batch_of(values), batch_of(other)
    assert (digest(one) == digest(two)) == (repr(one.to_pylist()) == repr(two.to_pylist()))


def test_it_can_be_taken_on_the_way() -> None:
    values = [{"url": f"u{number}", "n": number} for number in range(5)]
    running = RowsDigest()
    running.update(batch_of(values[:3]))
    assert running.hexdigest() == digest(batch_of(values[:3]))
    running.update(batch_of(values[3:]))
    assert (running.hexdigest(), running.num_rows) == (digest(batch_of(values)), 5)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["ab", "c"], ["a", "bc"]),
        (["", None], [None, ""]),
        (["a", ""], ["a"]),
        (["a", "b"], ["b", "a"]),
    ],
)
def test_values_do_not_run_into_each_other(one: list[str | None], other: list[str | None]) -> None:
    digests = {digest(pa.record_batch({"url": pa.array(values, pa.string())})) for values in (one, other)}
    assert len(digests) == 2


def test_columns_have_names() -> None:
    values = pa.array(["a"])
    assert digest(pa.record_batch({"url": values})) != digest(pa.record_batch({"caption": values}))
