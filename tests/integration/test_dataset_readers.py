"""A dataset opens in what people open datasets with: Hugging Face datasets, DuckDB, pyarrow."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as arrow_dataset
import pyarrow.parquet as pq
import pytest
from PIL import Image

from controlmill.config import BuildConfig
from storage.card import write_card
from storage.dataset import Dataset
from storage.layer import FAILURES
from storage.record import CommitRecord
from storage.schema import failure_schema, image_schema, layer_schema
from storage.writer import ShardWriter

NUM_ROWS = 70


def encoded(row: int, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB" if kind == "JPEG" else "L", (64, 64), row).save(buffer, kind)
    return buffer.getvalue()


def commit(dataset: Dataset, layer: str, shard: int, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    with ShardWriter(dataset, layer, shard, schema) as writer:
        writer.write(pa.RecordBatch.from_pylist(rows, schema))
        written = writer.close()
        record = CommitRecord(
            count=len(rows),
            successes=len(rows),
            layer=layer,
            shard=shard,
            rows=len(rows),
            num_bytes=written.num_bytes,
            sha256=written.sha256,
            fingerprint="f",
            reasons={"http_404": 2, "timeout": 3} if layer == "image" else {},
        )
        writer.commit(None if layer == FAILURES else record)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readers") / "dataset"
    dataset = Dataset.create(str(path))
    config = BuildConfig(url_list="x", output_folder="y")
    images = image_schema(config, [pa.field("tags", pa.list_(pa.string()))])
    maps = layer_schema([pa.field("low_threshold", pa.float32())])
    for shard in (0, 1):
        keys = [f"{shard * 1000 + row:08d}" for row in range(NUM_ROWS)]
        image_rows = [
            {
                "key": key,
                "url": f"http://a.example/{key}",
                "caption": "a disc",
                "status": "success",
                "width": 64,
                "height": 64,
                "tags": ["x"],
                "image": {"bytes": encoded(row, "JPEG"), "path": f"{key}.jpg"},
            }
            for row, key in enumerate(keys)
        ]
        commit(dataset, "image", shard, image_rows, images)
        map_rows = [
            {
                "key": key,
                "low_threshold": 50.0,
                "conditioning_image": {"bytes": encoded(255, "PNG"), "path": f"{key}.png"},
            }
            for key in keys
        ]
        commit(dataset, "canny", shard, map_rows, maps)
        failed = [{"key": f"{shard * 1000 + 100:08d}", "reason": "timeout"}]
        commit(dataset, FAILURES, shard, failed, failure_schema())
    write_card(dataset)
    return path


@pytest.fixture
def hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield datasets
    datasets.enable_progress_bars()


def test_hugging_face_opens_the_folder(folder: Path, hugging_face: Any) -> None:
    images = hugging_face.load_dataset(str(folder))["train"]
    assert images.num_rows == 2 * NUM_ROWS
    assert isinstance(images.features["image"], hugging_face.Image)
    assert images[69]["image"].size == (64, 64)
    assert (images[70]["key"], images[70]["tags"]) == ("00001000", ["x"])
    maps = hugging_face.load_dataset(str(folder), "canny")["train"]
    assert isinstance(maps.features["conditioning_image"], hugging_face.Image)
    assert maps[0]["conditioning_image"].getpixel((0, 0)) == 255
    assert maps["key"][:] == images["key"][:]
    failures = hugging_face.load_dataset(str(folder), FAILURES)["train"]
    assert failures["reason"][:] == ["timeout", "timeout"]


def test_hugging_face_opens_the_files(folder: Path, hugging_face: Any) -> None:
    files = sorted(str(path) for path in folder.joinpath("image").glob("*.parquet"))
    images = hugging_face.load_dataset("parquet", data_files=files)["train"]
    assert isinstance(images.features["image"], hugging_face.Image)
    streamed = hugging_face.load_dataset("parquet", data_files=files, streaming=True)["train"]
    assert next(iter(streamed))["image"].size == (64, 64)


def test_duckdb_joins_layers_on_the_key(folder: Path) -> None:
    query = f"""
        select count(*), min(image.width), sum(canny.low_threshold), min(octet_length(image.image.bytes))
        from '{folder}/image/*.parquet' as image join '{folder}/canny/*.parquet' as canny using (key)
    """
    with duckdb.connect() as connection:
        found = connection.execute(query).fetchone()
    assert found is not None
    assert found[:3] == (140, 64, 7000.0)
    assert found[3] > 100


def test_pyarrow_reads_the_wanted_columns(folder: Path) -> None:
    table = arrow_dataset.dataset(str(folder / "canny"), format="parquet", exclude_invalid_files=True)
    assert table.to_table(["key", "low_threshold"]).num_rows == 140
    file = pq.ParquetFile(folder / "image" / "00000.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [64, 6]


def test_the_card(folder: Path) -> None:
    assert folder.joinpath("README.md").read_text() == _CARD.replace("{image}", _megabytes(folder, "image")).replace(
        "{canny}", _megabytes(folder, "canny")
    )


def _megabytes(folder: Path, layer: str) -> str:
    return f"{sum(path.stat().st_size for path in folder.joinpath(layer).glob('*.parquet')) / 1e6:,.1f}"


_CARD = """\
---
configs:
- config_name: image
  data_files: image/*.parquet
  default: true
- config_name: canny
  data_files: canny/*.parquet
- config_name: failures
  data_files: failures/*.parquet
size_categories:
- n<1K
tags:
- controlnet
- image
---

# Dataset

Made by controlmill. Every layer is a folder of Parquet shards; row i of a shard has the same `key` in each
layer that was made from its images.

| layer | shards | rows | MB |
|---|---:|---:|---:|
| image | 2 | 140 | {image} |
| canny | 2 | 140 | {canny} |

## Rows without an image

| reason | rows |
|---|---:|
| timeout | 6 |
| http_404 | 4 |
"""
