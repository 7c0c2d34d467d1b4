"""The source is planned in a thread of the flow's process, ahead of the shards that are being pulled."""

import queue
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self


class BackgroundPlanner:
    """Runs a planning generator in a thread and hands out what it yields; what it raises is raised by `take`.

    Planning never waits for pulling: a missing column is found at once, and a shard number is a few bytes.
    It is idempotent, so ending it between two shards loses nothing.
    """

    def __init__(self, plan: Callable[[], Iterable[int]]) -> None:
        self._plan = plan
        self._planned: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="planner", daemon=True)
        self.num_planned = 0
        self.complete = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for shard in self._plan():
                self._planned.put(shard)
                self.num_planned += 1
                self._started.set()
                if self._stop.is_set():
                    return
            self.complete = True
        except BaseException as error:  # noqa: BLE001 - kept for the thread that takes the shards, and raised there
            self._error = error
        finally:
            self._started.set()

    def check(self, timeout_s: float | None) -> None:
        """Wait (at most `timeout_s`) for the first shard; raise what planning failed with, if it has."""
        self._started.wait(timeout_s)
        if self._error is not None:
            raise self._error

    def take(self) -> int | None:
        """The next planned shard, or None where none is ready; raise what planning failed with after the last one."""
        try:
            return self._planned.get_nowait()
        except queue.Empty:
            if self._error is not None:
                raise self._error from None
            return None

    @property
    def exhausted(self) -> bool:
        """Whether planning is complete and every shard was taken."""
        return self.complete and self._planned.empty()
