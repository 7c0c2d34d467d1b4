"""A folder has one writer, and gets rid of one that died."""

import subprocess
import sys
from pathlib import Path

import pytest

from controlmill.errors import FolderLockedError
from storage.lock import locked

_HOLD = """
import sys
from storage.lock import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-c", _HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        message = rf"in use by another controlmill \(process {holder.pid}\)"
        with pytest.raises(FolderLockedError, match=message), locked(str(folder)):
            pytest.fail("the lock was given twice")
        holder.kill()
        holder.wait()
    with locked(str(folder)):
        pass
