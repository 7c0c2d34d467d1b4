"""Ray and the Prefect server of a run: joined where they are configured, else started for the run and ended with it.

Both start at the same time; `prefect` must not be imported before `prefect_server` has set its environment.
"""

import fcntl
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controlmill.errors import EngineStartError
from controlmill.logs import log
from flows import imported_ray
from flows.last_workers import end_with_this_process
from flows.prefect_server import LOOPBACK, address_in_cluster
from flows.termination import kept_sigterm

if TYPE_CHECKING:
    from controlmill.config import EngineOptions

_SERVER_START_S = 90.0
_SERVER_STOP_S = 6.0
_CONNECT_S = 5.0
_REFUSED_HINT = (
    "if it wants a token, set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to what the cluster has"
)
_IN_RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in what was submitted to a cluster."""
_MAX_TEMPORARY_BYTES = 30
"""The path of a socket has 107 bytes at most: longer folders, as batch systems have them, leave Ray no room."""
_OBJECT_STORE_BYTES = 512 * 1024 * 1024
_OBJECT_STORE_BYTES_PER_CPU = 64 * 1024 * 1024
"""Tasks send decoded images to actors with networks; memory is taken where they do, not before."""

# What a server of one run does not need: it schedules nothing and sends nothing.
_SERVER_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
}


def data_folder() -> Path:
    """The user's data folder of controlmill, made when it is missing."""
    from platformdirs import user_data_path

    return user_data_path("controlmill", ensure_exists=True)


def no_usage_statistics() -> None:
    """Turn the usage statistics of Ray and Prefect off, unless the user turned them on (environment or Ray's file)."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    with suppress(OSError, ValueError):
        if json.loads((Path.home() / ".ray" / "config.json").read_text()).get("usage_stats"):
            return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def ray_environment(options: "EngineOptions") -> None:
    """Set what Ray reads from the environment.

    For a Ray of this run's own a token that only the run and its workers know: nobody else on the machine can hand code
    to it, and none is written to the user's home.
    """
    if imported_ray.is_connected():
        return
    if options.ray_address is not None:
        # At an address where something else answers than Ray, it would try 20 times, for 40 s each, deaf to Ctrl-C.
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
        os.environ.setdefault("RAY_py_gcs_connect_timeout_s", "5")
        return
    if len(os.environ.get("TMPDIR", "")) > _MAX_TEMPORARY_BYTES:
        os.environ.setdefault("RAY_TMPDIR", "/tmp")  # noqa: S108 Ray makes a folder for its sockets in it
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(16))
    # Nobody reads the metrics of one run's Ray unless asked to, nor the histories of its tasks: Prefect keeps those.
    os.environ.setdefault("RAY_enable_metrics_collection", "0")
    if options.metrics_port is not None:
        os.environ.update(RAY_enable_metrics_collection="1")
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    # No node of it is taken away with a warning, which an actor of every training would wait for.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # The switch that Ray has for other systems makes it keep to the loopback address here too.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if "ray" in sys.modules:
        imported_ray.read_environment_again()


@contextmanager
def prefect_server() -> Iterator["RunServer | None"]:
    """The Prefect server that `PREFECT_API_URL` or the active profile names, else one of this run's own.

    Yields the own server, which is still starting: call its `wait()` before the first flow.
    """
    no_usage_statistics()
    if os.environ.get("PREFECT_API_URL") or _profile_has_api_url():
        yield None
        return
    server = RunServer(address_in_cluster()) if _IN_RAY_JOB in os.environ else RunServer()
    os.environ.update(server.client_environment)
    try:
        yield server
    finally:
        for name in server.client_environment:
            del os.environ[name]
        server.stop()


def _profile_has_api_url() -> bool:
    """Whether the active Prefect profile names a server; importing Prefect to ask it would fix its settings."""
    home = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect"))
    with suppress(OSError):
        text = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml")).read_text(encoding="utf-8")
        import tomllib

        profiles = tomllib.loads(text)
        active = os.environ.get("PREFECT_PROFILE", profiles.get("active", ""))
        return "PREFECT_API_URL" in profiles.get("profiles", {}).get(active, {})
    return False


class RunServer:
    """A Prefect server on a free port; its history stays in the user's data folder.

    It listens on loopback. Where it is told another address, it answers only those who have its password: this run and
    its workers.
    """

    def __init__(self, host: str | None = None) -> None:
        """`host`: the address of this machine that it listens at, with a password; by default loopback, without."""
        self._host = host or LOOPBACK
        with socket.create_server((self._host, 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.password = None if host is None else f"controlmill:{secrets.token_hex(16)}"
        folder = data_folder()
        environment = dict(os.environ)
        for name, value in _SERVER_SETTINGS.items():
            environment.setdefault(name, value)
        environment.setdefault("PREFECT_API_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{folder / 'prefect.db'}")
        environment |= {**self.client_environment, "PREFECT_UI_API_URL": self.api_url}
        if self.password is not None:
            environment["PREFECT_SERVER_API_AUTH_STRING"] = self.password
        self._log_path = folder / f"prefect-server-{self.port}.log"
        # Two that start at once on one database can fail: the second waits until the first answers.
        self._starting = (folder / "prefect.lock").open("w")
        fcntl.flock(self._starting, fcntl.LOCK_EX)
        with self._log_path.open("wb") as log_file:
            # A session of its own: Ctrl-C goes to the run, which ends the server after its last words were recorded.
            self._process = subprocess.Popen(  # noqa: S603 - our own module, an integer argument
                [sys.executable, "-m", "flows.prefect_server", self._host, str(self.port)],
                stdin=subprocess.PIPE,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    @property
    def url(self) -> str:
        """Address of its pages."""
        return f"http://{self._host}:{self.port}"

    @property
    def api_url(self) -> str:
        """Address of its API."""
        return f"{self.url}/api"

    @property
    def client_environment(self) -> dict[str, str]:
        """What Prefect reads from the environment to find it."""
        password = {} if self.password is None else {"PREFECT_API_AUTH_STRING": self.password}
        return {"PREFECT_API_URL": self.api_url, **password}

    def wait(self) -> None:
        """Return when the server answers; raise `EngineStartError` with the end of its log when it does not."""
        deadline = time.monotonic() + _SERVER_START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(f"{self.api_url}/health", timeout=2).close()  # noqa: S310 - loopback
                self._starting.close()
                log("prefect_server_ready", url=self.url)
                return
            time.sleep(0.1)
        self._starting.close()
        tail = " | ".join(self._log_path.read_text(errors="replace").splitlines()[-3:])
        raise EngineStartError(f"the Prefect server did not start; {self._log_path} ends with: {tail or 'nothing'}")

    def stop(self) -> None:
        """End the server by closing its standard input; kill it when it does not follow."""
        assert self._process.stdin is not None  # noqa: S101 - opened above
        self._starting.close()
        ended_early = self._process.poll() is not None
        self._process.stdin.close()
        try:
            self._process.wait(_SERVER_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if not ended_early:
            self._log_path.unlink(missing_ok=True)


@contextmanager
def ray_cluster(options: "EngineOptions") -> Iterator[int]:
    """A connection to Ray, as `options.ray_address` says, or to a Ray of this process's own; yields the cluster's CPUs.

    A Ray that this process is already connected to is used as it is and left running.
    """
    no_usage_statistics()
    ray_environment(options)
    import ray

    if ray.is_initialized():
        yield _num_cpus()
        return
    try:
        with kept_sigterm():
            _connect(options)
    except ray.exceptions.AuthenticationError as error:
        raise EngineStartError(
            f"Ray at {options.ray_address}: RAY_AUTH_MODE is token, and there is none; set RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH"
        ) from error
    # where its processes do not answer in time, Ray raises an Exception of no kind
    except Exception as error:
        what = f"no Ray at {options.ray_address}" if options.ray_address else "Ray did not start"
        cause = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split()) or type(error).__name__
        # somebody listens there, or the cause were another
        hint = f"; {_REFUSED_HINT}" if "Failed to connect to Ray cluster" in cause else ""
        raise EngineStartError(f"{what}: {cause}{hint}") from error
    try:
        yield _num_cpus()
    finally:
        end_with_this_process()
        ray.shutdown()


def _connect(options: "EngineOptions") -> None:
    import logging

    import ray

    common: dict[str, Any] = {"namespace": "prefect", "log_to_driver": True, "logging_level": logging.ERROR}
    if options.ray_address:
        _check_listens(options.ray_address)
        ray.init(address=options.ray_address, **common)
        _keep_off_the_terminal()
        return
    num_cpus = max(os.cpu_count() or 1, options.processes_count or 0)
    ray.init(
        address="local",
        num_cpus=num_cpus,
        object_store_memory=max(_OBJECT_STORE_BYTES, num_cpus * _OBJECT_STORE_BYTES_PER_CPU),
        include_dashboard=False,
        _metrics_export_port=options.metrics_port,
        **common,
    )
    _keep_off_the_terminal()


def _keep_off_the_terminal() -> None:
    """What workers write goes to Prefect's page (`flows/worker_output.py`), not between the lines of a progress bar."""
    from ray._private.ray_logging import global_worker_stdstream_dispatcher

    global_worker_stdstream_dispatcher.remove_handler("ray_print_logs")


def _check_listens(address: str) -> None:
    """Raise `OSError` where nobody listens at host:port or ray://host:port; Ray would look for a quarter of an hour."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()


def _num_cpus() -> int:
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return max(1, int(resources.get("CPU", 1)))
