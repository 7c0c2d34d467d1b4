from pathlib import Path

import pytest

from controlmill.errors import StorageError, StorageWriteError
from storage.filesystem import Files, is_leftover, open_files, redact


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Files, str]:
    """A folder on the local disk, and one on fsspec's in-memory file system."""
    return open_files(str(tmp_path) if request.param == "local" else f"memory://{tmp_path}")


def test_files_come_and_go(place: tuple[Files, str]) -> None:
    files, root = place
    assert files.entries(f"{root}/a") == []
    assert (files.read(f"{root}/a/b"), files.stat(f"{root}/a/b")) == (None, None)
    files.write(f"{root}/a/b", b"one")
    files.write(f"{root}/a/b", b"three")
    files.write(f"{root}/a/c/d", b"")
    assert [(entry.name, entry.size, entry.is_folder) for entry in files.entries(f"{root}/a") if entry.size][:1] == [
        ("b", 5, False)
    ]
    assert [entry.name for entry in files.entries(f"{root}/a")] == ["b", "c"]
    assert files.read(f"{root}/a/b") == b"three"
    paths = [f"{root}/a/{name}" for name in ("b", "none", "c/d")]
    assert list(files.read_many(paths)) == [(paths[0], b"three"), (paths[2], b"")]
    with files.open(paths[0]) as file:
        file.seek(2)
        assert file.read(2) == b"re"
    files.delete(paths[0])
    files.delete(paths[0])
    assert [entry.name for entry in files.entries(f"{root}/a")] == ["c"]
    with pytest.raises(FileNotFoundError):
        files.open(paths[0])


def test_publishing(place: tuple[Files, str]) -> None:
    files, root = place
    temporary = files.new_temporary(f"{root}/x/00000.parquet")
    assert files.entries(f"{root}/x") == []
    Path(temporary).write_bytes(b"whole")
    files.publish(temporary, f"{root}/x/00000.parquet")
    assert files.read(f"{root}/x/00000.parquet") == b"whole"
    assert [entry.name for entry in files.entries(f"{root}/x")] == ["00000.parquet"]
    assert not Path(temporary).exists()


def test_a_local_temporary_file_is_known_as_one(tmp_path: Path) -> None:
    files, root = open_files(str(tmp_path))
    assert is_leftover(Path(files.new_temporary(f"{root}/00000.parquet")).name)
    assert not is_leftover("00000.parquet")
    assert not is_leftover("notes.tmp")


@pytest.mark.parametrize("uri", ["{}/a b", "file://{}/a b"])
def test_local_uris(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files, root = open_files(uri.format(tmp_path))
    assert (files.is_local, root) == (True, f"{tmp_path}/a b")
    monkeypatch.chdir(tmp_path)
    assert open_files("x/")[1] == f"{tmp_path}/x"


def test_unknown_protocols() -> None:
    with pytest.raises(StorageError, match=r"cannot open nonsense://\*\*\*@host/x: Protocol not known: nonsense"):
        open_files("nonsense://user:password@host/x")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:secret@bucket/x", "s3://***@bucket/x"),
        ("https://me:p@ss@host/x", "https://***@host/x"),
        ("https://h/x.csv?X-Amz-Signature=abc&y=1", "https://h/x.csv?***"),
        ("cannot read https://u@h/x?sig=1: it is gone", "cannot read https://***@h/x?*** it is gone"),
        ("s3://bucket/a@b/c?", "s3://bucket/a@b/c?"),
        ("/home/me@work/x", "/home/me@work/x"),
    ],
)
def test_secrets_are_not_shown(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_writing_below_a_file(tmp_path: Path) -> None:
    tmp_path.joinpath("file").write_text("x")
    files, root = open_files(str(tmp_path))
    with pytest.raises(StorageWriteError, match=rf"cannot write {root}/file/x: Not a directory"):
        files.write(f"{root}/file/x/y", b"")
    with pytest.raises(StorageError, match="Not a directory"):
        files.read(f"{root}/file/x")
