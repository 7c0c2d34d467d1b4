"""Every kind of source through the command line, also where people put them: other folders, odd names."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from controlmill.testing.command import Finished, parquet_hashes
from controlmill.testing.picture_server import PictureServer

Run = Callable[..., Finished]

COMMON = ["--image-size", 64, "--resize-mode", "center_crop", "--annotators", "canny", "--allow-private-networks"]


def images_of(dataset: Path) -> list[dict[str, Any]]:
    tables = [pq.read_table(path) for path in sorted((dataset / "image").glob("*.parquet"))]
    return [row for table in tables for row in table.to_pylist()]


def failures_of(dataset: Path) -> list[dict[str, Any]]:
    tables = [pq.read_table(path) for path in sorted((dataset / "failures").glob("*.parquet"))]
    return [row for table in tables for row in table.to_pylist()]


def test_a_folder_of_images_with_captions_beside_them(cluster: Run, server: PictureServer, tmp_path: Path) -> None:
    folder = tmp_path / "my photos"
    (folder / "größe").mkdir(parents=True)
    (folder / "b.jpg").write_bytes(server.picture(1))
    (folder / "größe" / "c.JPG").write_bytes(server.picture(2))
    (folder / "größe" / "c.txt").write_text("zwei Zeilen\nund mehr", encoding="utf-8")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.md").write_text("no picture either")
    words = ["build", "--image-folder", "my photos", "--output-folder", "data sets/one", *COMMON]
    finished = cluster(*words, folder=tmp_path)
    assert finished.exit_code == 0, finished.errors
    dataset = tmp_path / "data sets" / "one"
    rows = images_of(dataset)
    assert [(row["url"], row["caption"]) for row in rows] == [
        ("b.jpg", None),
        ("größe/c.JPG", "zwei Zeilen\nund mehr"),
    ]
    assert [(row["url"], row["reason"]) for row in failures_of(dataset)] == [("broken.png", "not_an_image")]
    assert "controlmill inspect 'data sets/one'" in finished.output


def i2d_rows(num_rows: int) -> list[dict[str, Any]]:
    """Rows as img2dataset writes them; every third one failed."""
    return [
        {
            "url": f"http://a.example/{row}.jpg",
            "caption": f"row {row}",
            "key": f"{row:09d}",
            "status": "failed_to_download" if row % 3 == 2 else "success",
            "error_message": "HTTP Error 404" if row % 3 == 2 else None,
            "score": row / 2,
        }
        for row in range(num_rows)
    ]


def write_parquet_output(folder: Path, server: PictureServer) -> None:
    rows = i2d_rows(7)
    blobs = [server.picture(number) if row["status"] == "success" else None for number, row in enumerate(rows)]
    table = pa.Table.from_pylist(rows).append_column("jpg", pa.array(blobs, pa.binary()))
    pq.write_table(table, folder / "00000.parquet")
    (folder / "00000_stats.json").write_text(json.dumps({"count": 7}))


def write_webdataset_output(folder: Path, server: PictureServer) -> None:
    rows = i2d_rows(7)
    pq.write_table(pa.Table.from_pylist(rows), folder / "00000.parquet")
    with tarfile.open(folder / "00000.tar", "w") as archive:
        for number, row in enumerate(rows):
            if row["status"] == "success":
                texts = {"json": json.dumps(row), "txt": row["caption"]}
                members = {"jpg": server.picture(number)} | {kind: text.encode() for kind, text in texts.items()}
                for kind, data in members.items():
                    info = tarfile.TarInfo(f"{row['key']}.{kind}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    (folder / "00000_stats.json").write_text(json.dumps({"count": 7}))


def test_the_output_of_img2dataset_is_adopted_without_pulling(
    cluster: Run, server: PictureServer, tmp_path: Path
) -> None:
    num_requests = len(server.requests)
    for name, write in (("parquet", write_parquet_output), ("webdataset", write_webdataset_output)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, server)
        words = ["build", "--from-img2dataset", tmp_path / name, "--output-folder", tmp_path / f"from-{name}", *COMMON]
        finished = cluster(*words, "--save-additional-columns", "score")
        assert finished.exit_code == 0, finished.errors
    rows = images_of(tmp_path / "from-parquet")
    assert [(row["url"], row["caption"], row["score"]) for row in rows] == [
        (f"http://a.example/{number}.jpg", f"row {number}", number / 2) for number in (0, 1, 3, 4, 6)
    ]
    layers = [parquet_hashes(tmp_path / f"from-{name}") for name in ("parquet", "webdataset")]
    for hashes in layers:
        del hashes["source/00000.parquet"]  # says where the images lie
    assert layers[0] == layers[1]
    assert len(server.requests) == num_requests


def test_one_row_and_a_shard_far_larger_than_the_source(cluster: Run, server: PictureServer, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(server.url("/5.jpg"))
    words = ["build", "--url-list", "one.txt", "--output-folder", "out", "--number-sample-per-shard", 100_000_000]
    finished = cluster(*words, *COMMON, folder=tmp_path)
    assert finished.exit_code == 0, finished.errors
    assert "1 row in 1 shard" in finished.output
    assert [row["key"] for row in images_of(tmp_path / "out")] == ["0" * 13]
