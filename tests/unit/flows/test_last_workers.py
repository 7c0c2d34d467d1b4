"""Which processes are taken for workers, and that they are gone in the end."""

import subprocess
from collections.abc import Iterator

import psutil
import pytest

from flows import last_workers


@pytest.fixture
def sleeping() -> Iterator[list[subprocess.Popen[bytes]]]:
    names = ("ray::Hanging", "somebody else's")
    processes = [subprocess.Popen(["bash", "-c", f'exec -a "{name}" sleep 600']) for name in names]
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_workers_that_stay_are_ended_and_nobody_else(
    sleeping: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []
    monkeypatch.setattr("atexit.register", lambda _, workers: ended.extend(workers))
    monkeypatch.setattr(last_workers, "_WITHIN_S", 0.1)
    worker, other = sleeping
    while not last_workers._is_worker(psutil.Process(worker.pid)):
        assert worker.poll() is None
    last_workers.end_with_this_process()
    assert [process.pid for process in ended] == [worker.pid]
    last_workers._end(ended)
    assert worker.wait(timeout=30) == -9
    assert other.poll() is None


def test_one_that_has_gone_is_not_waited_for(sleeping: list[subprocess.Popen[bytes]]) -> None:
    worker = psutil.Process(sleeping[0].pid)
    sleeping[0].kill()
    sleeping[0].wait()
    assert not last_workers._is_alive(worker)
    last_workers._end([worker])
