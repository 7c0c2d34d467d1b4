import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from storage.staging import Staging

MAKE = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from storage.staging import Staging
staging = Staging()
(staging.new_folder() / "00000.parquet").write_bytes(b"half")
print("made", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def age(folder: Path) -> None:
    for path in folder.iterdir():
        os.utime(path, (time.time() - 3600,) * 2)


def test_a_folder_is_deleted_with_what_is_in_it(tmp_path: Path) -> None:
    staging = Staging()
    folder = staging.new_folder()
    (folder / "x").write_bytes(b"x")
    staging.discard(folder)
    staging.discard(folder)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKE, str(tmp_path)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"made\n"
        (tmp_path / "controlmill-weights-x").mkdir()
        age(tmp_path)
        left = sorted(tmp_path.iterdir())
        assert len(left) == 2
        first = Staging()
        first.discard(first.new_folder())
        assert sorted(tmp_path.iterdir()) == left
        other.kill()
        other.wait()
    second = Staging()
    second.discard(second.new_folder())
    assert [path.name for path in tmp_path.iterdir()] == ["controlmill-weights-x"]


def test_a_young_folder_may_be_about_to_be_locked(tmp_path: Path) -> None:
    (tmp_path / "controlmill-upload-new").mkdir()
    staging = Staging()
    staging.discard(staging.new_folder())
    assert [path.name for path in tmp_path.iterdir()] == ["controlmill-upload-new"]
