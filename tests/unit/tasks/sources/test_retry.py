from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from controlmill.config import SourceOptions
from controlmill.errors import DatasetMismatchError
from controlmill.reasons import Reason
from storage.dataset import Dataset
from storage.layer import FAILURES
from storage.record import CommitRecord
from storage.schema import failure_schema
from storage.writer import ShardWriter
from tasks.sources.plan import plan, plan_retry
from tasks.sources.shards import cut

Planned = Callable[..., list[dict[str, Any]]]


def pull(dataset: Dataset, shard: int, failed: dict[str, Reason]) -> None:
    """What a pull leaves, as far as a retry looks at it: an image record, and the failures."""
    schema = failure_schema()
    with ShardWriter(dataset, FAILURES, shard, schema) as writer:
        rows = [{"key": key, "url": f"u{key}", "reason": str(reason)} for key, reason in failed.items()]
        writer.write(pa.RecordBatch.from_pylist(rows, schema))
        writer.commit(None)
    schema = pa.schema([pa.field("key", pa.string())])
    with ShardWriter(dataset, "image", shard, schema) as writer:
        written = writer.close()
        reasons = [str(reason) for reason in failed.values()]
        record = CommitRecord(
            count=10,
            successes=10 - len(failed),
            layer="image",
            shard=shard,
            rows=0,
            num_bytes=written.num_bytes,
            sha256=written.sha256,
            fingerprint="f",
            reasons={reason: reasons.count(reason) for reason in reasons},
        )
        writer.commit(record)


@pytest.fixture
def built(dataset: Dataset, tmp_path: Path) -> Dataset:
    """Three shards of ten rows: 12 timeouts and 2 missing pages in the first two, the third not pulled yet."""
    path = tmp_path / "urls.csv"
    path.write_text("url,h,n\n" + "".join(f"http://a.example/{row}.jpg,{row:02x},{row}\n" for row in range(30)))
    options = {"number_sample_per_shard": 10, "verify_hash": ("h", "md5"), "save_additional_columns": ("n",)}
    list(plan(dataset, SourceOptions.model_validate({"url_list": str(path), **options})))
    pull(dataset, 0, {f"{row:06d}": Reason.HTTP_404 if row == 3 else Reason.TIMEOUT for row in range(8)})
    pull(dataset, 1, {f"{10 + row:06d}": Reason.HTTP_404 if row == 9 else Reason.TIMEOUT for row in (0, 1, 2, 3, 4, 9)})
    return dataset


def test_failed_rows_become_new_shards(built: Dataset, planned: Planned) -> None:
    assert plan_retry(built, [Reason.TIMEOUT]) == [3, 4]
    rows = planned([3, 4], ("key", "url", "retry_of", "expected_hash", "n"))
    failed = [0, 1, 2, 4, 5, 6, 7, 10, 11, 12, 13, 14]
    assert [row["retry_of"] for row in rows] == [f"{number:06d}" for number in failed]
    assert [row["url"] for row in rows] == [f"http://a.example/{number}.jpg" for number in failed]
    assert [(row["expected_hash"], row["n"]) for row in rows[-1:]] == [("0e", "14")]
    assert [row["key"] for row in rows] == [*(f"{number:06d}" for number in range(30, 40)), "000040", "000041"]
    record = built.layer("source").record(3)
    assert record is not None
    assert (record.unit.name, record.unit.config["reasons"]) == ("retry", ["timeout"])


def test_a_row_is_retried_once(built: Dataset, planned: Planned) -> None:
    plan_retry(built, [Reason.TIMEOUT])
    pull(built, 3, {"000031": Reason.TIMEOUT})
    assert plan_retry(built, [Reason.TIMEOUT]) == [3, 4, 5]  # 5 holds what failed again
    assert [row["retry_of"] for row in planned([5], ("retry_of",))] == ["000031"]
    pull(built, 4, {})
    pull(built, 5, {})
    assert plan_retry(built, [Reason.TIMEOUT]) == [3, 4, 5]
    assert plan_retry(built, ["http_404"]) == [3, 4, 5, 6]  # type: ignore[list-item]  # as a command line gives it
    assert [row["retry_of"] for row in planned([6], ("retry_of",))] == ["000003", "000019"]


def test_nothing_failed_for_this_reason(built: Dataset) -> None:
    assert plan_retry(built, [Reason.DNS]) == []
    assert built.layer("source").committed() == {0, 1, 2}


def test_a_killed_retry_ends_with_the_same_shards(
    built: Dataset, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def cut_and_die(batches: Any, num_rows: int) -> Any:
        yield from islice(cut(batches, num_rows), 1)
        raise KilledError

    monkeypatch.setattr("tasks.sources.retry.cut", cut_and_die)
    with pytest.raises(KilledError):
        plan_retry(built, [Reason.TIMEOUT])
    assert built.layer("source").committed() == {0, 1, 2, 3}
    monkeypatch.undo()
    assert plan_retry(built, [Reason.TIMEOUT]) == [3, 4]
    numbers = [int(row["retry_of"]) for row in planned([3, 4], ("retry_of",))]
    assert numbers == [0, 1, 2, 4, 5, 6, 7, 10, 11, 12, 13, 14]
    assert plan_retry(built, [Reason.TIMEOUT]) == [3, 4]


def test_shards_that_are_not_committed_have_no_failures(built: Dataset) -> None:
    Path(built.layer("image").record_path(1)).unlink()
    assert plan_retry(built, [Reason.TIMEOUT]) == [3]
    record = built.layer("source").record(3)
    assert record is not None
    assert record.rows == 7


def test_a_build_goes_on_with_the_retries_and_extends_behind_them(built: Dataset, tmp_path: Path) -> None:
    plan_retry(built, [Reason.TIMEOUT])
    path = tmp_path / "urls.csv"
    values = {"url_list": str(path), "number_sample_per_shard": 10, "verify_hash": ("h", "md5")}
    options = SourceOptions.model_validate({**values, "save_additional_columns": ("n",)})
    assert list(plan(built, options)) == [0, 1, 2, 3, 4]
    path.write_text(path.read_text() + "http://a.example/30.jpg,1e,30\n")
    extend = options.model_copy(update={"incremental_mode": "extend"})
    assert list(plan(built, extend)) == [0, 1, 2, 3, 4, 5]
    assert list(plan(built, options)) == [0, 1, 2, 3, 4, 5]
    assert plan_retry(built, [Reason.TIMEOUT]) == [3, 4]


def test_a_dataset_that_is_not_planned_to_its_end(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "urls.txt"
    path.write_text("a\nb\n")
    next(plan(dataset, SourceOptions(url_list=str(path), number_sample_per_shard=1)))
    with pytest.raises(DatasetMismatchError, match="are not all planned yet: run `controlmill build` to its end first"):
        plan_retry(dataset, [Reason.TIMEOUT])
