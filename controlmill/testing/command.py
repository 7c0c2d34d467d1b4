"""Run `controlmill` as a process of its own, watch its family, and kill members of it."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Finished:
    """What a run of the command line left in the terminal."""

    exit_code: int
    output: str
    errors: str


def run(
    *words: object, environment: Mapping[str, str] | None = None, folder: Path | None = None, limit_s: float = 600.0
) -> Finished:
    """Run the command line to its end, in `folder`, with `environment` laid over this process's own."""
    finished = subprocess.run(  # noqa: S603 - arguments of a test
        [sys.executable, "-m", "controlmill.cli.main", *map(str, words)],
        env={**os.environ, **(environment or {})},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    return Finished(finished.returncode, finished.stdout, finished.stderr)


class Command:
    """One run of the command line, in a process group of its own; its output goes to a file."""

    def __init__(
        self,
        arguments: Sequence[str],
        log_path: Path,
        environment: Mapping[str, str] | None = None,
        stdin: int | None = None,
    ) -> None:
        """`environment` is laid over this process's own; `stdin` is a descriptor, by default this process's."""
        self._log_path = log_path
        with log_path.open("ab") as log_file:
            self.process = subprocess.Popen(  # noqa: S603 - arguments of a test
                [sys.executable, "-m", "controlmill.cli.main", *arguments],
                env={**os.environ, **(environment or {})},
                stdin=stdin,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self._log_path.read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        """The process and all of its descendants that are alive."""
        try:
            head = psutil.Process(self.process.pid)
            return [head, *head.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Wait until the condition holds; False when the process ended before."""
        while self.process.poll() is None:
            if condition():
                return True
            time.sleep(_POLL_S)
        return False

    def kill(self, victim: str, rng: random.Random) -> list[psutil.Process]:
        """SIGKILL a busy Ray "worker", an "actor" at a batch, the "flow" process or the whole "tree".

        Returns what must be gone then. A busy actor is a busy worker, too.
        """
        family = self.family()
        if victim in ("worker", "actor"):
            busy = [process for process in family if is_busy(process, "Actor." if victim == "actor" else "")]
            victims = [rng.choice(busy)] if busy else []
            doomed = victims
        else:
            victims = family[:1] if victim == "flow" else family
            doomed = family
        for process in victims:
            _signal(process, signal.SIGKILL)
        return doomed

    def interrupt(self) -> None:
        """What Ctrl-C in a terminal does: SIGINT to the foreground process group."""
        os.killpg(self.process.pid, signal.SIGINT)


def wait_gone(processes: Sequence[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait until the processes are gone; returns those that are not (zombies count as gone).

    Ray's two agents are not waited for: when the driver is killed they try for a minute to tell a control store that is
    dead too (process_watcher.py of Ray 2.60), idle, and write nothing of ours.
    """
    deadline_s = time.monotonic() + timeout_s
    alive = [process for process in processes if not _is_agent(process)]
    while alive and time.monotonic() < deadline_s:
        alive = [process for process in alive if _is_alive(process)]
        time.sleep(_POLL_S)
    return alive


def parquet_hashes(dataset: Path) -> dict[str, str]:
    """SHA-256 of every Parquet file of a dataset, by path in it."""
    return {
        str(path.relative_to(dataset)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(dataset.rglob("*.parquet"))
    }


def is_busy(process: psutil.Process, title: str = "") -> bool:
    """Whether it is a worker of Ray at its work, with `title` in its name: "Actor." for an actor at a batch."""
    try:
        name = " ".join(process.cmdline())
    except psutil.Error:
        return False
    idle = ("IDLE", "Board", "Agent", "__init__")
    return name.startswith("ray::") and title in name and not any(word in name for word in idle)


def _is_agent(process: psutil.Process) -> bool:
    try:
        return "Agent" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
