"""A Ray cluster that is not controlmill's: started as its owner would, and ended with the test."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_START_S = 240.0
_STOP_S = 40.0
_POLL_S = 0.1
_ALWAYS_THERE = ("IDLE", "Agent", "_AutoscalingCoordinatorActor")
_OBJECT_STORE_BYTES = 128 * 1024 * 1024


class RayNode:
    """A node of a cluster, in a process group of its own; with everything it starts it is one machine."""

    def __init__(self, words: Sequence[object], environment: Mapping[str, str], folder: Path, name: str) -> None:
        """`words`: what Python runs, from its module on."""
        self._words = words
        self._environment = environment
        self._folder = folder
        self._log_path = folder / f"{name}.log"

    def __enter__(self) -> Self:
        with self._log_path.open("wb") as log_file:
            self._process = subprocess.Popen(  # noqa: S603 - our own words
                [sys.executable, "-m", *map(str, self._words)],
                stdout=log_file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
                cwd=self._folder,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + _START_S
        while "Ray runtime started" not in self._log_path.read_text(errors="replace"):
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                said = self._log_path.read_text(errors="replace")[-2000:]
                self.__exit__(None, None, None)
                raise RuntimeError(f"Ray did not start: {said}")
            time.sleep(_POLL_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @property
    def is_running(self) -> bool:
        """Whether it lives."""
        return self._process.poll() is None

    def family(self) -> list[psutil.Process]:
        """Its process and all that it started."""
        head = psutil.Process(self._process.pid)
        return [head, *head.children(recursive=True)]

    def titles(self) -> list[str]:
        """What its workers call themselves while they have work: `ray::` and the name of a task or an actor.

        Without Ray's own agents, and without the one coordinator of its library for training, which stays in a cluster
        for good once there was a training run.
        """
        titles = []
        for process in self.family():
            with suppress(psutil.Error):
                title = " ".join(process.cmdline()).strip()
                if title.startswith("ray::") and not any(word in title for word in _ALWAYS_THERE):
                    titles.append(title)
        return titles

    def kill(self) -> None:
        """End all of its processes at once, as a power cut does."""
        family = self.family()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(family, _STOP_S)


class RayHead(RayNode):
    """`ray start --head` on loopback and free ports, in a folder of its own."""

    def __init__(self, num_cpus: int = 2, *, dashboard: bool = False) -> None:
        """Choose ports and a token.

        Args:
            num_cpus: of this node.
            dashboard: whether there is one, and with it the Jobs API.
            settings: what Ray's own processes on this node read from the environment.
        """
        # short: the sockets in it have long names, and a socket's path may have 107 bytes
        folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self.address = f"127.0.0.1:{_free_port()}"
        self.dashboard_url = f"http://127.0.0.1:{_free_port()}"
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "200",
        }
        """What whoever joins has to have in the environment."""
        options = {
            "--port": self.address.rpartition(":")[2],
            "--ray-client-server-port": _free_port(),
            "--dashboard-agent-listen-port": 0,
            "--node-ip-address": "127.0.0.1",
            "--include-dashboard": str(dashboard).lower(),
            "--dashboard-host": "127.0.0.1",
            "--dashboard-port": self.dashboard_url.rpartition(":")[2],
            "--num-cpus": num_cpus,
            "--object-store-memory": _OBJECT_STORE_BYTES,
            "--temp-dir": folder,
        }
        # jobs run `python`, which is this one
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        # a node that is gone is noticed in seconds, not in half a minute
        noticing = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "5"}
        words = [word for option in options.items() for word in option]
        start = ["ray.scripts.scripts", "start", "--block", "--head", *words]
        super().__init__(start, {**self.environment, **noticing, "PATH": path}, folder, "head")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        shutil.rmtree(self._folder, ignore_errors=True)

    def node(self, name: str, num_cpus: int = 1) -> RayNode:
        """Another node of the cluster; enter it to start it."""
        words = ["controlmill.testing.ray_node", self.address, self._folder / name, num_cpus, _OBJECT_STORE_BYTES]
        return RayNode(words, self._environment, self._folder, name)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
