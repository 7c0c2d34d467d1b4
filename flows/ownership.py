"""Which flow runs the processes of this machine own; those whose process is gone are marked as crashed.

Prefect never hears of a process that was killed together with whatever watched it: its run would stay "Running".
Every run holds the lock of a file with its id, in the user's data folder, and the system frees the lock when the
process ends, however it ends. So a lock that is free belongs to a run that nobody works on; runs of others have no
file here.
"""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, TaskRunFilter, TaskRunFilterState
from prefect.client.schemas.filters import TaskRunFilterStateType as StateTypes
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run
from prefect.states import Crashed

from controlmill.logs import log, warning
from flows.engines import data_folder
from storage.filesystem import one_line

_UNFINISHED = [StateType.RUNNING, StateType.PENDING]
_FORGOTTEN_AFTER_S = 30 * 24 * 3600.0
"""A file is forgotten then, also one that no server knew, or of another machine: pods come and go under new names."""


@contextmanager
def owned() -> Iterator[None]:
    """Own the flow run that this is called in; runs of this machine that nobody owns any more are marked first."""
    mark_crashed()
    folder = _folder()
    path = folder / str(flow_run.id)
    made = folder / f".{flow_run.id}.{os.getpid()}"
    with made.open("w") as file:
        # locked before it has its name: whoever finds it free may take its owner for dead
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"{socket.gethostname()} {os.getpid()}\n")
        file.flush()
        made.rename(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def mark_crashed() -> list[UUID]:
    """Tell Prefect which runs of this machine have no process any more; returns the runs that were unfinished."""
    with _dead() as dead:
        if not dead:
            return []
        try:
            with get_client(sync_client=True) as client:
                known = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=list(dead))))
                unfinished = [run.id for run in known if run.state_type in _UNFINISHED]
                for run_id in unfinished:
                    _mark(client, run_id, dead[run_id])
        except (httpx.HTTPError, PrefectException) as error:
            warning("crashed_runs_not_marked", cause=one_line(error))
            return []
        for run_id in {run.id for run in known} | {run_id for run_id in dead if _is_old(_folder() / str(run_id))}:
            (_folder() / str(run_id)).unlink(missing_ok=True)
        return unfinished


def _folder() -> Path:
    folder = data_folder() / "runs"
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def _dead() -> Iterator[dict[UUID, str]]:
    """The runs whose lock is free, with host and process of their owners; locked, so that nobody else marks them."""
    descriptors: list[int] = []
    dead: dict[UUID, str] = {}
    try:
        for path in sorted(_folder().glob("[!.]*")):
            descriptor = _lock(path)
            if descriptor is None:
                continue
            descriptors.append(descriptor)
            host, _, process = os.pread(descriptor, 300, 0).decode(errors="replace").strip().partition(" ")
            # a home that several machines share: their locks may not be visible here
            if host != socket.gethostname() and not _is_old(path):
                continue
            dead[UUID(path.name)] = f"process {process} on {host}"
        yield dead
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _is_old(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > _FORGOTTEN_AFTER_S


def _lock(path: Path) -> int | None:
    """The locked file, None where its owner lives or has just ended."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _mark(client: SyncPrefectClient, run_id: UUID, owner: str) -> None:
    """The run, and the tasks of it that were under way."""
    crashed: Any = Crashed(message=f"{owner}, which worked on this run, is gone; start it again to go on")
    unfinished = TaskRunFilter(state=TaskRunFilterState(type=StateTypes(any_=_UNFINISHED)))
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    for task_run in client.read_task_runs(flow_run_filter=of_run, task_run_filter=unfinished):
        client.set_task_run_state(task_run.id, crashed, force=True)
    client.set_flow_run_state(run_id, crashed, force=True)
    log("run_crashed", run=run_id, owner=owner)


if __name__ == "__main__":
    mark_crashed()
