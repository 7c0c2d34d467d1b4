import hashlib
import os
from pathlib import Path

import pytest

from storage.weights.digest import sha256_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "controlmill" / "weights.json"


def _file(folder: Path, content: bytes = b"weights") -> Path:
    path = folder / "file.pth"
    path.write_bytes(content)
    return path


def test_is_the_sha256_of_the_bytes(tmp_path: Path) -> None:
    assert sha256_of(_file(tmp_path)) == hashlib.sha256(b"weights").hexdigest()


def test_a_file_that_did_not_change_is_not_read_again(tmp_path: Path) -> None:
    path = _file(tmp_path)
    first = sha256_of(path)
    stat = path.stat()
    path.write_bytes(b"WEIGHTS")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert sha256_of(path) == first
    assert sha256_of(path, anew=True) == hashlib.sha256(b"WEIGHTS").hexdigest()


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = _file(tmp_path)
    sha256_of(path)
    _file(tmp_path, b"others")
    assert sha256_of(path) == hashlib.sha256(b"others").hexdigest()


def test_a_link_is_the_file_it_leads_to(tmp_path: Path, cache: Path) -> None:
    path = _file(tmp_path)
    (tmp_path / "link").symlink_to(path)
    assert sha256_of(tmp_path / "link") == sha256_of(path)
    assert str(path.resolve()) in cache.read_text()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"x": 1'])
def test_a_spoiled_memory_is_forgotten(tmp_path: Path, cache: Path, content: bytes) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content)
    assert sha256_of(_file(tmp_path)) == hashlib.sha256(b"weights").hexdigest()


def test_a_home_that_cannot_be_written_to_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    assert sha256_of(_file(tmp_path)) == hashlib.sha256(b"weights").hexdigest()
