from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from controlmill.config import PullOptions
from controlmill.reasons import Reason, RowFailure
from storage.schema import image_struct
from tasks.sources.local import LocalReader
from tasks.sources.location import Location


@pytest.fixture
def reader() -> LocalReader:
    return LocalReader(PullOptions(max_bytes=100))


def failure(reader: LocalReader, location: Location) -> tuple[Reason, str]:
    found = reader.read(location.to_text())
    assert isinstance(found, RowFailure)
    return found.reason, found.message


def test_a_location_is_one_line_of_json() -> None:
    location = Location("/a b/é#.tar", offset=3, size=4)
    assert location.to_text() == '{"path":"/a b/é#.tar","offset":3,"size":4}'
    assert Location.from_text(location.to_text()) == location


def test_files_and_pieces_of_files(tmp_path: Path, reader: LocalReader) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(bytes(range(100)))
    assert reader.read(Location(str(path)).to_text()) == bytes(range(100))
    assert reader.read(Location(f"file://{path}").to_text()) == bytes(range(100))
    assert reader.read(Location(str(path), 10, 3).to_text()) == b"\x0a\x0b\x0c"
    assert reader.read(Location(str(path), 10, 0).to_text()) == b""


def test_failures_are_values(tmp_path: Path, reader: LocalReader) -> None:
    path = tmp_path / "a.jpg"
    assert failure(reader, Location(str(path))) == (Reason.FILE_MISSING, f"{path}: there is no such file")
    assert failure(reader, Location(str(tmp_path)))[0] == Reason.FILE_MISSING
    path.write_bytes(b"x" * 101)
    assert failure(reader, Location(str(path))) == (Reason.TOO_LARGE, "more than 100 bytes (max_bytes)")
    assert failure(reader, Location(str(path), 0, 101))[0] == Reason.TOO_LARGE
    assert failure(reader, Location(str(path), 90, 20)) == (Reason.TRUNCATED, f"{path} ends 9 bytes too early")
    assert failure(reader, Location(str(path), row=0, column="jpg"))[0] == Reason.FILE_MISSING


def test_parquet_rows_in_any_order(tmp_path: Path, reader: LocalReader) -> None:
    path = tmp_path / "a.parquet"
    values = [None if row == 5 else f"value {row}".encode() for row in range(1000)]
    structs = [None if value is None else {"bytes": value, "path": "x"} for value in values]
    table = pa.table({"jpg": pa.array(values, pa.binary()), "image": pa.array(structs, image_struct())})
    pq.write_table(table, path, row_group_size=300)
    for column in ("jpg", "image"):
        for row in (0, 1, 3, 2, 999, 0, 301, 299, 640, 998):
            assert reader.read(Location(str(path), row=row, column=column).to_text()) == f"value {row}".encode()
    for row in (5, 1000, 5000):
        assert failure(reader, Location(str(path), row=row, column="jpg")) == (
            Reason.FILE_MISSING,
            f"{path}: there is no image in row {row}",
        )
    assert failure(reader, Location(str(path), row=0, column="png")) == (
        Reason.FILE_MISSING,
        f"{path}: cannot be read: it has no column 'png'",
    )


def test_consecutive_rows_are_not_read_one_by_one(tmp_path: Path, reader: LocalReader) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"jpg": pa.array([b"x"] * 1000)}), path, row_group_size=1000)
    assert reader.read(Location(str(path), row=0, column="jpg").to_text()) == b"x"
    path.unlink()  # what follows comes from the file that is open
    assert all(reader.read(Location(str(path), row=row, column="jpg").to_text()) == b"x" for row in range(1000))
