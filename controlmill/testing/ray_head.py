"""A Ray cluster of one node that is not controlmill's: started as its owner would, and ended with the test."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_START_S = 60.0
_STOP_S = 40.0


class RayHead:
    """`ray start --head` on loopback and free ports, in a process group and a folder of its own."""

    def __init__(self, num_cpus: int = 2) -> None:
        self._num_cpus = num_cpus
        # short: the sockets in it have long names, and a socket's path may have 107 bytes
        self._folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self._log_path = self._folder / "head.log"
        self.address = f"127.0.0.1:{_free_port()}"
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        """What whoever joins has to have in the environment."""

    def __enter__(self) -> Self:
        options = {
            "--port": self.address.rpartition(":")[2],
            "--ray-client-server-port": _free_port(),
            "--dashboard-agent-listen-port": 0,
            "--node-ip-address": "127.0.0.1",
            "--include-dashboard": "false",
            "--num-cpus": self._num_cpus,
            "--object-store-memory": 128 * 1024 * 1024,
            "--temp-dir": self._folder,
        }
        words = [str(word) for option in options.items() for word in option]
        with self._log_path.open("wb") as log_file:
            self._process = subprocess.Popen(  # noqa: S603 - our own words
                [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *words],
                stdout=log_file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                cwd=self._folder,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + _START_S
        while "Ray runtime started" not in self._log_path.read_text(errors="replace"):
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.__exit__(None, None, None)
                raise RuntimeError("Ray did not start")
            time.sleep(0.1)
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
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def is_running(self) -> bool:
        """Whether the head lives."""
        return self._process.poll() is None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
