"""SIGTERM while Ray's compiled code runs: an exception that a signal handler raises there ends as a `SystemError`."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self


@contextmanager
def kept_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM that this run has, where Ray sets one that exits on the spot."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


class DeferredTermination:
    """Keeps a SIGTERM until `check`, which hands it to the handler that was there before: Prefect's, inside of a flow.

    Only the main thread gets signals; in any other this does nothing.
    """

    def __init__(self) -> None:
        self._came = False
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._keep)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hand_back()
        if error is None:
            self.check()

    def check(self) -> None:
        """Hand on the SIGTERM that came, if one did."""
        if self._came:
            self._came = False
            self._hand_back()
            signal.raise_signal(signal.SIGTERM)

    def _keep(self, _number: int, _frame: FrameType | None) -> None:
        self._came = True

    def _hand_back(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None
