import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from controlmill.errors import SourceMissingError
from controlmill.testing.http_server import HttpServer, answer

Rows = list[dict[str, Any]]
Read = Callable[..., Rows]

A, B = "https://a.example/1.jpg", "https://b.example/2.jpg"


def urls(rows: Rows) -> list[str | None]:
    return [row["url"] for row in rows]


def write(path: Path, data: bytes, *, zipped: bool) -> Path:
    path = path.with_name(f"{path.name}.gz") if zipped else path
    path.write_bytes(gzip.compress(data, mtime=0) if zipped else data)
    return path


def parquet_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


TABLE = pa.table({"caption": ["one", None], "url": [A, B], "size": pa.array([7, 8], pa.int16())})
JSON_ROWS = [{"url": A, "caption": "one", "size": 7}, {"url": B, "size": 8}]
CONTENTS = {
    "csv": f'caption,url,size\n"one",{A},7\n,{B},8\n'.encode(),
    "tsv": f"caption\turl\tsize\none\t{A}\t7\n\t{B}\t8\n".encode(),
    "json": json.dumps(JSON_ROWS).encode(),
    "jsonl": "\n".join(json.dumps(row) for row in JSON_ROWS).encode(),
    "parquet": parquet_bytes(TABLE),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", CONTENTS)
def test_tables(tmp_path: Path, read: Read, kind: str, *, zipped: bool) -> None:
    path = write(tmp_path / f"list.{kind}", CONTENTS[kind], zipped=zipped)
    sizes: list[Any] = ["7", "8"] if kind in {"csv", "tsv"} else [7, 8]
    assert read(url_list=str(path), caption_col="caption", save_additional_columns=("size",)) == [
        {"url": A, "caption": "one", "location": None, "size": sizes[0]},
        {"url": B, "caption": None, "location": None, "size": sizes[1]},
    ]


@pytest.mark.parametrize("zipped", [False, True])
def test_lines(tmp_path: Path, read: Read, *, zipped: bool) -> None:
    content = f"\ufeff{A}\r\n\r\n   \n  {B} \nhttp://c.example/a,b\tc\nlast".encode()
    path = write(tmp_path / "list.txt", content, zipped=zipped)
    assert urls(read(url_list=str(path))) == [A, B, "http://c.example/a,b\tc", "last"]


def test_lines_of_any_length_and_of_bad_bytes(tmp_path: Path, read: Read) -> None:
    long = "http://a.example/" + "x" * 9_000_000
    path = tmp_path / "list.txt"
    path.write_bytes(f"{A}\n{long}\n".encode() + b"http://a.example/\xff\n" + B.encode())
    assert urls(read(url_list=str(path))) == [A, long, "http://a.example/\ufffd", B]


def test_csv_with_newlines_quotes_and_a_mark_at_its_beginning(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(f'\ufeffurl,text\r\n{A},"two\nlines, ""quoted"""\r\n,NA\r\n{B},""\r\n'.encode())
    rows = read(url_list=str(path), caption_col="text")
    assert [(row["url"], row["caption"]) for row in rows] == [(A, 'two\nlines, "quoted"'), (None, "NA"), (B, "")]


def test_rows_without_a_url_stay(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"url": null}\n\n{"url": ""}\n{"other": 1}\n{"url": 3}\n{"url": ["x"]}\n')
    assert urls(read(url_list=str(path))) == [None, "", None, "3", '["x"]']


def test_json_types_come_from_the_first_rows(tmp_path: Path, read: Read) -> None:
    rows = [{"url": A, "f": 1, "b": True, "n": None, "d": {"x": [1]}, "s": "é"}, {"url": B, "f": 0.5, "s": 3}]
    path = tmp_path / "list.json"
    path.write_text(json.dumps(rows))
    found = read(url_list=str(path), save_additional_columns=("f", "b", "n", "d", "s"))
    assert [[row[name] for name in "fbnds"] for row in found] == [
        [1.0, True, None, '{"x": [1]}', "é"],
        [0.5, None, None, None, "3"],
    ]


def test_json_lines_in_a_file_named_json(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(CONTENTS["jsonl"])
    assert urls(read(url_list=str(path))) == [A, B]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"url": "x"}\n\n{"url": \n', r"a\.jsonl, line 3: not valid JSON: Expecting value"),
        (
            "a.jsonl",
            b'{"url": "x"}\n["y"]\n',
            r"a\.jsonl, line 2: expected an object with a key per column, got a list",
        ),
        ("a.jsonl", b'{"url": "\xff"}\n', r"a\.jsonl, line 1: not valid JSON: 'utf-8' codec"),
        ("a.json", b'[{"url": "x"}, {"url": ', r"a\.json, object 2: not valid JSON: "),
        ("a.json", b'[{"url": "x"}, 3]', r"a\.json, object 2: expected an object"),
        ("a.csv", b"url,b\nx,y\nx,y,z\n", r"a\.csv: cannot be read: CSV parse error: Row #3: Expected 2 columns"),
        ("a.csv", b"u" * 200_000 + b"\nx\n", r"a\.csv: cannot be read: field larger than field limit"),
        ("a.csv", b"u\xffrl,b\nx,y\n", r"a\.csv: cannot be read: 'utf-8' codec"),
        ("a.parquet", b"PAR1 no", r"a\.parquet: cannot be read: "),
        (
            "a.csv.gz",
            gzip.compress(b"url\n" + b"x\n" * 1000, mtime=0)[:-12],
            r"a\.csv\.gz: cannot be read: Compressed file ended",
        ),
        ("a.csv.gz", b"\x1f\x8bnot gzip", r"a\.csv\.gz: cannot be read: "),
        ("a.dat", b"x", r"a\.dat: its format is not told by its name: give input_format"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, read: Read, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceMissingError, match=message):
        read(url_list=str(path))


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_missing_column_names_those_that_there_are(tmp_path: Path, read: Read, kind: str) -> None:
    path = tmp_path / f"list.{kind}"
    path.write_bytes(CONTENTS[kind])
    with pytest.raises(SourceMissingError, match=rf"list\.{kind} has no column 'URL'; it has: ") as caught:
        read(url_list=str(path), url_col="URL")
    assert set(str(caught.value).partition("it has: ")[2].split(", ")) == {"caption", "url", "size"}


def test_lines_have_no_other_column(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "list.txt"
    path.write_text(A)
    with pytest.raises(SourceMissingError, match=r"list\.txt has no column 'caption'; it has: url"):
        read(url_list=str(path), caption_col="caption")


def test_a_type_that_changes_is_named(tmp_path: Path, read: Read) -> None:
    lines = [f'{{"url": "u{number}", "n": {number}}}\n' for number in range(20_000)]
    path = tmp_path / "list.jsonl"
    path.write_text("".join(lines) + '{"url": "u", "n": "many"}\n')
    with pytest.raises(
        SourceMissingError, match=r"list\.jsonl, line 20001: 'n' is 'many', and int64 in the rows before"
    ):
        read(url_list=str(path), save_additional_columns=("n",))


def test_parquet_types(tmp_path: Path, read: Read) -> None:
    columns = {
        "url": pa.array([A, B], pa.large_string()),
        "tag": pa.array(["x", "x"]).dictionary_encode(),
        "box": pa.array([[1, 2], None], pa.list_(pa.int32())),
        "none": pa.nulls(2),
    }
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table(columns), path)
    rows = read(url_list=str(path), save_additional_columns=("tag", "box", "none"))
    assert rows[0] == {"url": A, "caption": None, "location": None, "tag": "x", "box": [1, 2], "none": None}


def test_the_expected_hash_is_kept(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f"url,checksum\n{A},00ff\n")
    assert read(url_list=str(path), verify_hash=("checksum", "md5"))[0]["expected_hash"] == "00ff"


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path, read: Read) -> None:
    for name, content in (("b.txt", "3\n"), ("a.txt", "1\n2"), ("README.md", "no"), (".a.txt", "no"), ("_b.txt", "no")):
        tmp_path.joinpath(name).write_text(content)
    assert urls(read(url_list=str(tmp_path))) == ["1", "2", "3"]
    assert urls(read(url_list=f"file://{tmp_path}")) == ["1", "2", "3"]


def test_a_folder_of_several_formats(tmp_path: Path, read: Read) -> None:
    tmp_path.joinpath("a.txt").write_text("1")
    tmp_path.joinpath("a.txt.gz").write_bytes(gzip.compress(b"2", mtime=0))
    tmp_path.joinpath("a.csv").write_text("url\n3\n")
    with pytest.raises(
        SourceMissingError, match=r"files of several formats \(csv, txt, txt\.gz\): choose one with input_f"
    ):
        read(url_list=str(tmp_path))
    assert [urls(read(url_list=str(tmp_path), input_format=kind)) for kind in ("txt", "txt.gz", "csv")] == [
        ["1"], ["2"], ["3"],
    ]  # fmt: skip
    with pytest.raises(SourceMissingError, match="there is no parquet file in this folder"):
        read(url_list=str(tmp_path), input_format="parquet")


def test_a_format_that_the_name_does_not_tell(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "list"
    path.write_text(f"url\n{A}\n")
    assert urls(read(url_list=str(path), input_format="csv")) == [A]


def test_nothing_there(tmp_path: Path, read: Read) -> None:
    with pytest.raises(SourceMissingError, match=r"none\.txt: there is no such file or folder"):
        read(url_list=str(tmp_path / "none.txt"))
    with pytest.raises(
        SourceMissingError, match=r"there is no txt, csv, tsv, json, jsonl or parquet file in this folder"
    ):
        read(url_list=str(tmp_path))
    with pytest.raises(SourceMissingError, match=r"cannot open nonsense://x/list\.txt"):
        read(url_list="nonsense://x/list.txt")


def test_a_server_that_refuses_says_what_it_says(read: Read) -> None:
    routes = {f"/{code}.txt": answer(status=f"{code} {text}") for code, text in ((403, "Forbidden"), (503, "Busy"))}
    with HttpServer({**routes, "/list.txt": answer(f"{A}\n".encode())}) as server:
        assert urls(read(url_list=server.url("/list.txt"))) == [A]
        with pytest.raises(SourceMissingError, match=r"/none\.txt: there is no such file or folder"):
            read(url_list=server.url("/none.txt"))
        for code in (403, 503):
            said = rf"^cannot read http://.*/{code}\.txt\?\*\*\*: {code}, message="
            with pytest.raises(SourceMissingError, match=said):
                read(url_list=server.url(f"/{code}.txt?signed=secret"), input_format="txt")
    with pytest.raises(SourceMissingError, match=r"^cannot read http://.*/list\.txt: .*[Cc]onnect"):
        read(url_list=server.url("/list.txt"))


def test_files_of_a_folder_whose_columns_differ(tmp_path: Path, read: Read) -> None:
    tmp_path.joinpath("a.csv").write_text("url,n\n1,2\n")
    tmp_path.joinpath("b.csv").write_text("url,m\n1,2\n")
    with pytest.raises(SourceMissingError, match=r"b\.csv has no column 'n'; it has: url, m"):
        read(url_list=str(tmp_path), save_additional_columns=("n",))
    pq.write_table(pa.table({"url": ["1"], "n": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"url": ["1"], "n": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(SourceMissingError, match=r"b\.parquet: column 'n' holds string, int64 is needed"):
        read(url_list=str(tmp_path), input_format="parquet", save_additional_columns=("n",))
