"""Which runs of this machine are left without a process, told from locks alone."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from flows import ownership

HELD, FREE, ELSEWHERE = (UUID(int=number) for number in (1, 2, 3))
HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    made = tmp_path / "controlmill" / "runs"
    made.mkdir(parents=True)
    for run, host in ((HELD, socket.gethostname()), (FREE, socket.gethostname()), (ELSEWHERE, "elsewhere")):
        (made / str(run)).write_text(f"{host} 17\n")
    return made


@pytest.fixture
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder / str(HELD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="platformdirs reads XDG_DATA_HOME on Linux")
def test_a_run_is_dead_once_its_lock_is_free(holder: subprocess.Popen[str]) -> None:
    with ownership._dead() as dead:
        assert dead == {FREE: f"process 17 on {socket.gethostname()}"}
        with ownership._dead() as seen_by_another:
            assert seen_by_another == {}
    holder.kill()
    holder.wait()
    with ownership._dead() as dead:
        assert set(dead) == {HELD, FREE}


def test_a_run_of_another_machine_is_dead_after_a_month(folder: Path) -> None:
    (folder / str(FREE)).unlink()
    (folder / str(HELD)).unlink()
    with ownership._dead() as dead:
        assert dead == {}
    month_ago_s = time.time() - 31 * 24 * 3600
    os.utime(folder / str(ELSEWHERE), (month_ago_s, month_ago_s))
    with ownership._dead() as dead:
        assert dead == {ELSEWHERE: "process 17 on elsewhere"}
