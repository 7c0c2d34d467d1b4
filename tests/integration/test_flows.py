"""The commands that make a dataset, each as a process that joins a Ray and a Prefect server that were there before."""

import csv
import gzip
import hashlib
import json
import shutil
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from controlmill.testing.command import Finished, parquet_hashes
from controlmill.testing.picture_server import PictureServer
from controlmill.testing.ray_head import RayHead
from flows.engines import RunServer
from storage.dataset import Dataset
from storage.verify import verify

Run = Callable[..., Finished]
Rows = list[dict[str, Any]]

NUM_ROWS = 36
ROWS_PER_SHARD = 10
HEADER = ["url", "caption", "score", "license", "sum"]
CAPTION = 'two lines,\nsome "quotes"; größe 画像 🖼\t'
COMMON = ["--image-size", 64, "--resize-mode", "center_crop", "--timeout", 1, "--allow-private-networks"]
REASONS = {"http_404": 1, "http_5xx": 2, "timeout": 1, "invalid_url": 3, "hash_mismatch": 1}
NUM_FAILED = sum(REASONS.values())


def source_rows(server: PictureServer, num_rows: int = NUM_ROWS) -> list[list[object]]:
    """Rows of a list of URLs, with what lists of URLs have in them."""
    urls = {number: server.url(f"/{number}.jpg") for number in range(num_rows)}
    urls |= {number: server.url(f"/busy/{number}.jpg") for number in (7, 17)}
    urls |= {3: server.url("/gone.jpg"), 12: server.url("/silent/12.jpg"), 23: urls[0]}
    urls |= {20: "", 21: "not a url", 22: "http:///22.jpg"}
    rows: list[list[object]] = []
    for number, url in urls.items():
        digest = hashlib.sha256(server.picture(0 if number == 23 else 1 if number == 24 else number)).hexdigest()
        caption = CAPTION if number == 25 else f"picture {number}"
        rows.append([url, caption, number / 4, "CC0" if number % 2 else None, digest])
    return rows


def write_csv(path: Path, rows: list[list[object]]) -> Path:
    with gzip.open(path, "wt", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return path


def build_words(url_list: Path, dataset: Path) -> list[object]:
    source = ["--url-list", url_list, "--caption-col", "caption", "--save-additional-columns", "score,license"]
    source += ["--verify-hash", "sum,sha256", "--number-sample-per-shard", ROWS_PER_SHARD]
    return ["build", *source, "--output-folder", dataset, "--annotators", "canny", *COMMON]


@pytest.fixture(scope="module")
def url_list(server: PictureServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("source") / "urls.csv.gz", source_rows(server))


@pytest.fixture(scope="module")
def first_run(url_list: Path, cluster: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    dataset = tmp_path_factory.mktemp("built") / "dataset"
    return dataset, cluster(*build_words(url_list, dataset))


@pytest.fixture
def dataset(first_run: tuple[Path, Finished], tmp_path: Path) -> Path:
    """A copy of the built dataset, to be changed."""
    return Path(shutil.copytree(first_run[0], tmp_path / "dataset"))


@pytest.fixture
def healed(server: PictureServer) -> Iterator[None]:
    server.is_healed = True
    yield
    server.is_healed = False


def rows_of(dataset: Path, layer: str, columns: list[str] | None = None) -> Rows:
    table = ds.dataset(sorted((dataset / layer).glob("*.parquet")), format="parquet").to_table(columns=columns)
    return list(table.to_pylist())


def keys_of(dataset: Path, layer: str) -> list[str]:
    return [row["key"] for row in rows_of(dataset, layer, ["key"])]


def records_of(dataset: Path, layer: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted((dataset / layer).glob("*_stats.json"))]


def ask(server: RunServer, what: str, query: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """What Prefect's API knows."""
    request = urllib.request.Request(  # noqa: S310 - loopback
        f"{server.api_url}/{what}/filter",
        data=json.dumps(query or {}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as found:  # noqa: S310 - loopback
        return list(json.load(found))


def assert_whole(dataset: Path) -> None:
    """Every planned row is an image or a failure, once; every file is the one that its record describes."""
    keys = keys_of(dataset, "image") + keys_of(dataset, "failures")
    assert sorted(keys) == keys_of(dataset, "source")
    assert list(verify(Dataset(str(dataset)), deep=True)) == []
    assert not list(dataset.rglob("*.tmp"))


def test_a_build_leaves_every_row_as_image_or_failure(first_run: tuple[Path, Finished]) -> None:
    dataset, finished = first_run
    assert finished.exit_code == 0, finished.errors
    assert_whole(dataset)
    assert len(keys_of(dataset, "source")) == NUM_ROWS
    assert keys_of(dataset, "canny") == keys_of(dataset, "image")
    failures = rows_of(dataset, "failures")
    assert Counter(row["reason"] for row in failures) == REASONS
    assert [record["count"] for record in records_of(dataset, "image")] == [10, 10, 10, 6]
    assert sum(record["successes"] for record in records_of(dataset, "image")) == NUM_ROWS - NUM_FAILED


def test_captions_and_columns_come_through_as_they_are(first_run: tuple[Path, Finished]) -> None:
    dataset, _ = first_run
    rows = {int(row["key"]): row for row in rows_of(dataset, "image")}
    assert rows[25]["caption"] == CAPTION
    assert (rows[5]["score"], rows[5]["license"]) == ("1.25", "CC0")
    assert rows[0]["sha256"] == rows[23]["sha256"]
    assert not rows[0]["license"]
    failed = {int(row["key"]): row for row in rows_of(dataset, "failures")}
    assert failed[7]["score"] == "1.75"
    assert failed[7]["http_status"] == 503


def test_the_summary_says_what_happened_and_what_can_be_done(first_run: tuple[Path, Finished]) -> None:
    dataset, finished = first_run
    assert f"{NUM_ROWS} rows in 4 shards" in finished.output
    assert f"{NUM_FAILED} failed" in finished.output
    assert f"controlmill retry {dataset} --reason http_5xx,timeout" in finished.output
    assert "shard_written shard=00003" in finished.errors
    assert "Traceback" not in finished.errors


def test_prefect_has_the_totals_and_a_completed_run_for_each_shard(
    first_run: tuple[Path, Finished], engines: tuple[RayHead, RunServer]
) -> None:
    dataset, _ = first_run
    _, prefect = engines
    of_run = [found for found in ask(prefect, "artifacts") if str(dataset) in (found["description"] or "")]
    assert sorted(found["key"] for found in of_run) == ["contact-sheet", "dataset-rows"]
    artifact = next(found for found in of_run if found["key"] == "dataset-rows")
    table = {row["what"]: row["rows"] for row in json.loads(artifact["data"])}
    failed = {f"failed: {reason}": num for reason, num in REASONS.items()}
    assert table == {"shards": 4, "rows": NUM_ROWS, "images": NUM_ROWS - NUM_FAILED, **failed}
    task_runs = ask(prefect, "task_runs", {"flow_runs": {"id": {"any_": [artifact["flow_run_id"]]}}})
    states = {run["name"]: run["state_type"] for run in task_runs}
    assert states == {f"pull {shard:05d}": "COMPLETED" for shard in range(4)}
    (flow_run,) = ask(prefect, "flow_runs", {"flow_runs": {"id": {"any_": [artifact["flow_run_id"]]}}})
    assert flow_run["state_type"] == "COMPLETED"


def test_the_engines_that_were_joined_still_run(
    first_run: tuple[Path, Finished], engines: tuple[RayHead, RunServer]
) -> None:
    ray, prefect = engines
    assert first_run[1].exit_code == 0
    assert ray.is_running
    assert ask(prefect, "flow_runs")


def test_running_again_does_nothing_and_asks_for_no_picture(
    url_list: Path, dataset: Path, cluster: Run, server: PictureServer
) -> None:
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("[!.]*") if path.is_file()}
    num_requests = len(server.requests)
    finished = cluster(*build_words(url_list, dataset))
    assert finished.exit_code == 0, finished.errors
    assert "nothing to do: all 4 shards were done before" in finished.output
    assert len(server.requests) == num_requests
    changed = {str(path) for path, mtime in before.items() if path.stat().st_mtime_ns != mtime}
    assert changed <= {str(dataset / "README.md")}


def test_a_shard_without_record_is_made_again_with_the_same_bytes(
    url_list: Path, dataset: Path, cluster: Run, server: PictureServer
) -> None:
    before = parquet_hashes(dataset)
    (dataset / "image" / "00001_stats.json").unlink()
    (dataset / "canny" / "00002_stats.json").unlink()
    (dataset / "image" / ".00003.parquet.0123456789ab.tmp").write_bytes(b"left by a killed run")
    num_requests = len(server.asked("/0.jpg"))
    assert cluster(*build_words(url_list, dataset)).exit_code == 0
    # maps of stored pixels differ a little from those of the pixels before they were encoded
    del before["canny/00002.parquet"]
    assert parquet_hashes(dataset).items() >= before.items()
    assert len(server.asked("/0.jpg")) == num_requests
    assert_whole(dataset)


def test_other_thresholds_make_the_maps_anew_and_nothing_else(
    dataset: Path, cluster: Run, server: PictureServer
) -> None:
    before = parquet_hashes(dataset)
    num_requests = len(server.requests)
    words = ["annotate", dataset, "--annotators", "canny", "annotator_options.canny.low_threshold=[10,40]", "seed=3"]
    finished = cluster(*words)
    assert finished.exit_code == 0, finished.errors
    assert "in 4 shards" in finished.output
    after = parquet_hashes(dataset)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {f"canny/{shard:05d}.parquet" for shard in range(4)}
    assert keys_of(dataset, "canny") == keys_of(dataset, "image")
    lows = {row["low_threshold"] for row in rows_of(dataset, "canny")}
    assert len(lows) > 5
    assert all(10 <= low <= 40 for low in lows)
    assert len(server.requests) == num_requests
    assert "nothing to do" in cluster(*words).output
    assert parquet_hashes(dataset) == after


@pytest.mark.usefixtures("healed")
def test_retry_pulls_what_failed_into_new_shards(dataset: Path, cluster: Run, server: PictureServer) -> None:
    before = parquet_hashes(dataset)
    num_gone = len(server.asked("/gone.jpg"))
    words = ["retry", dataset, "--reason", "http_5xx", "--reason", "timeout", "--allow-private-networks"]
    finished = cluster(*words)
    assert finished.exit_code == 0, finished.errors
    assert "3 rows in 1 shard" in finished.output
    assert parquet_hashes(dataset).items() >= before.items()
    retried = pq.read_table(dataset / "source" / "00004.parquet").to_pylist()
    assert [int(row["retry_of"]) for row in retried] == [7, 12, 17]
    images = pq.read_table(dataset / "image" / "00004.parquet").to_pylist()
    assert [row["score"] for row in images] == ["1.75", "3.0", "4.25"]
    assert pq.read_table(dataset / "canny" / "00004.parquet", columns=["key"]).column("key").to_pylist() == [
        row["key"] for row in images
    ]
    assert len(server.asked("/gone.jpg")) == num_gone
    keys = keys_of(dataset, "image") + keys_of(dataset, "failures")
    assert len(keys) == len(set(keys)) == NUM_ROWS + 3
    assert_whole(dataset)

    after = parquet_hashes(dataset)
    num_requests = len(server.requests)
    again = cluster(*words)
    assert again.exit_code == 0, again.errors
    assert "nothing to do" in again.output
    assert parquet_hashes(dataset) == after
    assert len(server.requests) == num_requests


def test_a_source_that_grew(dataset: Path, cluster: Run, server: PictureServer, tmp_path: Path, url_list: Path) -> None:
    before = parquet_hashes(dataset)
    grown = write_csv(tmp_path / url_list.name, source_rows(server, NUM_ROWS + 14))
    words = build_words(grown, dataset)
    refused = cluster(*words)
    assert refused.exit_code == 3
    assert refused.errors.count("error: ") == 1
    assert "urls.csv.gz" in refused.errors
    assert "extend" in refused.errors
    assert parquet_hashes(dataset) == before

    num_old = len(server.asked("/0.jpg"))
    extended = cluster(*words, "--incremental-mode", "extend")
    assert extended.exit_code == 0, extended.errors
    assert "14 rows in 2 shards" in extended.output
    assert parquet_hashes(dataset).items() >= before.items()
    assert len(server.asked("/0.jpg")) == num_old
    assert [row["caption"] for row in rows_of(dataset, "source")][-14:] == [
        f"picture {number}" for number in range(NUM_ROWS, NUM_ROWS + 14)
    ]
    assert_whole(dataset)

    again = cluster(*words, "--incremental-mode", "overwrite")
    assert again.exit_code == 0, again.errors
    assert f"{NUM_ROWS + 14} rows in 5 shards" in again.output
    assert len(keys_of(dataset, "source")) == NUM_ROWS + 14
    assert_whole(dataset)


@pytest.mark.parametrize(
    ("words", "code", "texts"),
    [
        (["--image-size", 128], 4, ["image_size", "64", "128"]),
        (["--number-sample-per-shard", 20], 4, ["number_sample_per_shard", "10", "20"]),
        (["--annotators", "canny,depht"], 2, ["depht"]),
        (["annotator_options.canny.low_treshold=3"], 2, ["low_treshold", "low_threshold"]),
    ],
)
def test_what_does_not_fit_the_dataset_is_refused_by_name(
    dataset: Path, url_list: Path, cluster: Run, words: list[object], code: int, texts: list[str]
) -> None:
    before = parquet_hashes(dataset)
    description = (dataset / "dataset.json").read_bytes()
    finished = cluster(*build_words(url_list, dataset), *words)
    assert finished.exit_code == code, finished.errors
    (line,) = [line for line in finished.errors.splitlines() if line.startswith("error: ")]
    assert all(text in line for text in texts), line
    assert "starting" not in finished.errors
    assert parquet_hashes(dataset) == before
    assert (dataset / "dataset.json").read_bytes() == description
