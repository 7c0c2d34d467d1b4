"""Scheduled runs on one machine: a Prefect server, its work pool, the deployments of prefect.yaml, and a worker.

`make deploy` runs this. It stays in the foreground; Ctrl-C ends what it started, and a run that is under way. Running
it again changes nothing but what changed in prefect.yaml and the files of options. A server that PREFECT_API_URL names,
or that answers already, is used and left running.
"""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from flows.engines import data_folder, no_usage_statistics

ROOT = Path(__file__).resolve().parent.parent
POOL = "controlmill"
PORT = os.environ.get("PREFECT_SERVER_API_PORT", "4200")
START_S = 180.0
STOP_S = 60.0


def main() -> None:
    """Start what is missing, deploy, and work until Ctrl-C."""
    signal.signal(signal.SIGTERM, _stop)
    no_usage_statistics()
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    with ExitStack() as stack:
        if "PREFECT_API_URL" not in os.environ:
            os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{PORT}/api"
            stack.enter_context(_server(os.environ["PREFECT_API_URL"]))
        _run("python", "-m", "flows.ownership")
        if _prefect("work-pool", "inspect", POOL, quiet=True):
            _run("prefect", "work-pool", "create", POOL, "--type", "process")
        _run("prefect", "--no-prompt", "deploy", "--all")
        print(f"\nWatch and start runs at {os.environ['PREFECT_API_URL'].removesuffix('/api')}. Ctrl-C ends this.\n")
        with _started("worker", "worker", "start", "--pool", POOL, "--type", "process") as worker:
            worker.wait()
    if worker.returncode:
        sys.exit(f"the worker ended with exit code {worker.returncode}")


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _server(api_url: str) -> Iterator[None]:
    """A server on loopback, unless one answers at that place."""
    if _answers(api_url):
        yield
        return
    database = f"sqlite+aiosqlite:///{data_folder() / 'prefect-scheduled.db'}"
    os.environ.setdefault("PREFECT_API_DATABASE_CONNECTION_URL", database)
    with _started("server", "server", "start", "--host", "127.0.0.1", "--port", PORT) as server:
        deadline_s = time.monotonic() + START_S
        while not _answers(api_url):
            if server.poll() is not None or time.monotonic() > deadline_s:
                sys.exit(
                    "the Prefect server did not start; is something else at its port? PREFECT_SERVER_API_PORT=4201"
                )
            time.sleep(0.2)
        yield


def _answers(api_url: str) -> bool:
    with suppress(OSError):
        urllib.request.urlopen(f"{api_url}/health", timeout=2).close()  # noqa: S310 loopback
        return True
    return False


@contextmanager
def _started(what: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of Prefect that is asked to end behind the `with` block; Ctrl-C goes to this process alone."""
    print(f"starting the Prefect {what}")
    process = subprocess.Popen([_tool("prefect"), *words], cwd=ROOT, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _prefect(*words: str, quiet: bool = False) -> int:
    out = subprocess.DEVNULL if quiet else None
    return subprocess.run([_tool("prefect"), *words], cwd=ROOT, stdout=out, stderr=out, check=False).returncode


def _run(tool: str, *words: str) -> None:
    done = subprocess.run([_tool(tool), *words], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"{tool} {' '.join(words)} failed")


def _tool(name: str) -> str:
    """The program of this environment, which need not be active."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else name


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
