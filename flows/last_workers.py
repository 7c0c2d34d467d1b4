"""Workers of a run's own Ray do not outlive the run.

In Ray 2.60 a worker that ends by itself can wait for itself for good: the destructor of its publisher posts to the
scheduler that is being shut down, whose lock its own thread holds (seen in the controller of a training). Ray's raylet
would kill it, and has ended with the run by then.
"""

import atexit
import time
from collections.abc import Sequence
from contextlib import suppress

import psutil

_WITHIN_S = 5.0
_POLL_S = 0.05


def end_with_this_process() -> None:
    """See to it that those that are there now are gone when this process is; to be called before Ray is left.

    At the end of the process and not at once: they have gone by then, and nobody waits for them. Those of a Ray that
    others have started are none of ours: they descend from another process.
    """
    atexit.register(_end, [one for one in psutil.Process().children(recursive=True) if _is_worker(one)])


def _is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return " ".join(process.cmdline()).startswith("ray::")
    return False


def _end(workers: Sequence[psutil.Process]) -> None:
    deadline_s = time.monotonic() + _WITHIN_S
    alive = [one for one in workers if _is_alive(one)]
    while alive and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
        alive = [one for one in alive if _is_alive(one)]
    for one in alive:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
