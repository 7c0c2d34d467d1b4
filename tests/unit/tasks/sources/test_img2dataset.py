import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from controlmill.config import PullOptions
from controlmill.errors import SourceChangedError, SourceMissingError
from controlmill.reasons import Reason, RowFailure
from tasks.sources.local import LocalReader

Rows = list[dict[str, Any]]
Read = Callable[..., Rows]
KINDS = ["files", "webdataset", "parquet"]


def metadata(shard: int, num_rows: int = 4) -> Rows:
    """The rows that img2dataset writes beside the images; every third one failed."""
    return [
        {
            "url": f"http://a.example/{shard}/{row}.jpg",
            "caption": f"row {row}",
            "key": f"{shard * 10_000 + row:09d}",
            "status": "failed_to_download" if row % 3 == 2 else "success",
            "error_message": "HTTP Error 404" if row % 3 == 2 else None,
            "score": row / 2,
        }
        for row in range(num_rows)
    ]


def write_shard(folder: Path, kind: str, shard: int, num_rows: int = 4) -> None:
    """A finished shard in the layout of img2dataset 1.47."""
    name = f"{shard:05d}"
    rows = metadata(shard, num_rows)
    folder.mkdir(exist_ok=True)
    table = pa.Table.from_pylist(rows)
    if kind == "parquet":
        blobs = [f"jpg {row['key']}".encode() if row["status"] == "success" else None for row in rows]
        table = table.append_column("jpg", pa.array(blobs, pa.binary()))
    pq.write_table(table, folder / f"{name}.parquet", row_group_size=3)
    done = [row for row in rows if row["status"] == "success"]
    members = [
        (f"{row['key']}.{suffix}", data)
        for row in done
        for suffix, data in (
            ("jpg", f"jpg {row['key']}".encode()),
            ("json", json.dumps(row).encode()),
            ("txt", row["caption"].encode()),
        )
    ]
    if kind == "webdataset":
        with tarfile.open(folder / f"{name}.tar", "w") as archive:
            for member, data in members:
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    elif kind == "files":
        folder.joinpath(name).mkdir()
        for member, data in members:
            folder.joinpath(name, member).write_bytes(data)
    folder.joinpath(f"{name}_stats.json").write_text("{}")


@pytest.mark.parametrize("kind", KINDS)
def test_rows_with_an_image_and_its_bytes(tmp_path: Path, read: Read, kind: str) -> None:
    for shard in (0, 1):
        write_shard(tmp_path / "out", kind, shard)
    rows = read(from_img2dataset=str(tmp_path / "out"), save_additional_columns=("score",))
    assert [(row["url"], row["caption"], row["score"]) for row in rows] == [
        ("http://a.example/0/0.jpg", "row 0", 0.0),
        ("http://a.example/0/1.jpg", "row 1", 0.5),
        ("http://a.example/0/3.jpg", "row 3", 1.5),
        ("http://a.example/1/0.jpg", "row 0", 0.0),
        ("http://a.example/1/1.jpg", "row 1", 0.5),
        ("http://a.example/1/3.jpg", "row 3", 1.5),
    ]
    reader = LocalReader(PullOptions())
    expected = [f"jpg {key:09d}".encode() for key in (0, 1, 3, 10_000, 10_001, 10_003)]
    assert [reader.read(row["location"]) for row in rows] == expected
    assert [reader.read(row["location"]) for row in reversed(rows)] == expected[::-1]


@pytest.mark.parametrize("kind", ["files", "webdataset"])
def test_without_the_parquet_beside_it(tmp_path: Path, read: Read, kind: str) -> None:
    write_shard(tmp_path / "out", kind, 0)
    (tmp_path / "out" / "00000.parquet").unlink()
    rows = read(from_img2dataset=str(tmp_path / "out"), save_additional_columns=("score",))
    assert [(row["url"][-7:], row["caption"], row["score"]) for row in rows] == [
        ("0/0.jpg", "row 0", 0.0),
        ("0/1.jpg", "row 1", 0.5),
        ("0/3.jpg", "row 3", 1.5),
    ]
    reader = LocalReader(PullOptions())
    assert [reader.read(row["location"]) for row in rows] == [b"jpg 000000000", b"jpg 000000001", b"jpg 000000003"]


@pytest.mark.parametrize("kind", ["files", "webdataset"])
def test_an_image_that_was_deleted_since(tmp_path: Path, read: Read, kind: str) -> None:
    write_shard(tmp_path / "out", kind, 0, num_rows=1)
    if kind == "files":
        (tmp_path / "out" / "00000" / "000000000.jpg").unlink()
    else:
        with tarfile.open(tmp_path / "out" / "00000.tar", "w"):
            pass
    (row,) = read(from_img2dataset=str(tmp_path / "out"))
    failure = LocalReader(PullOptions()).read(row["location"])
    assert isinstance(failure, RowFailure)
    assert failure.reason == Reason.FILE_MISSING


def test_a_cut_tar(tmp_path: Path, read: Read) -> None:
    write_shard(tmp_path / "out", "webdataset", 0)
    path = tmp_path / "out" / "00000.tar"
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(SourceMissingError, match=r"00000\.tar: not a whole tar file: "):
        read(from_img2dataset=str(tmp_path / "out"))


def test_unfinished_shards_are_left_out(tmp_path: Path, read: Read) -> None:
    for shard in (0, 1):
        write_shard(tmp_path / "out", "webdataset", shard)
    (tmp_path / "out" / "00000_stats.json").unlink()
    assert {row["url"][-7] for row in read(from_img2dataset=str(tmp_path / "out"))} == {"1"}
    (tmp_path / "out" / "00001_stats.json").unlink()
    with pytest.raises(SourceMissingError, match=r"there are only unfinished shards \(no _stats.json\)"):
        read(from_img2dataset=str(tmp_path / "out"))


def test_what_is_no_output_of_img2dataset(tmp_path: Path, read: Read) -> None:
    with pytest.raises(SourceMissingError, match="no output of img2dataset: there are no shards"):
        read(from_img2dataset=str(tmp_path))
    tmp_path.joinpath("00000.tfrecord").write_text("x")
    with pytest.raises(SourceMissingError, match="tfrecord output is not read"):
        read(from_img2dataset=str(tmp_path))


def test_a_run_that_went_on(tmp_path: Path, run: Callable[..., list[int]]) -> None:
    out = tmp_path / "out"
    write_shard(out, "parquet", 0)
    options = {"from_img2dataset": str(out), "number_sample_per_shard": 2}
    assert run(**options) == [0, 1]
    write_shard(out, "parquet", 1)
    with pytest.raises(SourceChangedError, match="00001 is new; --incremental-mode extend"):
        run(**options)
    assert run(**options, incremental_mode="extend") == [0, 1, 2, 3]
    moved = out.rename(tmp_path / "moved")
    assert run(**{**options, "from_img2dataset": str(moved)}) == [0, 1, 2, 3]
