"""What the processes of Ray write to their standard output and error, from all machines of the cluster.

Actors do not log to Prefect by themselves, and whoever is killed cannot say why. Ray's monitors send the lines to the
driver; here they are kept for errors, and those of actors handed on.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_NUM_KEPT = 200
_NUM_LAST = 20
_NUM_PER_ACTOR = 500
"""Lines of one actor that are handed on; a library that says the same for every image would fill a database."""
COMING_S = 1.5
"""Until Ray's monitor has sent what a process wrote before it died: it looks about once in a second."""
_HEARD = frozenset({"AnnotatorActor", "CaptionActor", "LavisWorker", "RayTrainWorker"})
"""Actors that do the work; Ray's own say much that nobody can use. The lines of the others are kept all the same."""


class WorkerOutput:
    """The last lines of the workers of one run."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """`say` is given the lines of actors."""
        self._say = say
        self._lines: deque[str] = deque(maxlen=_NUM_KEPT)
        self._said: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, data: Mapping[str, Any]) -> None:
        """Lines of one process, as Ray's driver has them."""
        actor, process = data.get("actor_name") or "", data.get("pid")
        who = f"{actor or 'worker'} pid={process}"
        for line in data.get("lines", ()):
            text = str(line).rstrip()
            # names of actors and tasks come the same way, marked
            if not text or text.startswith(":") or process in ("raylet", "gcs_server", "autoscaler"):
                continue
            with self._lock:
                self._lines.append(f"{who}: {text}")
                self._said[who] += 1
                speaks = actor in _HEARD and self._said[who] <= _NUM_PER_ACTOR
            if speaks:
                self._say(f"{who}: {text}")

    def last_words(self) -> list[str]:
        """The last lines of all workers."""
        with self._lock:
            return list(self._lines)[-_NUM_LAST:]


@contextmanager
def listening(say: Callable[[str], None]) -> Iterator[WorkerOutput]:
    """Have the lines of this process's Ray inside of the `with` block; Ray may be joined later."""
    # Ray has no public way to get them but on the terminal
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

    output = WorkerOutput(say)
    name = f"controlmill-{id(output)}"
    dispatcher.add_handler(name, output.take)
    try:
        yield output
    finally:
        dispatcher.remove_handler(name)
