import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from flows.termination import DeferredTermination


class Terminated(BaseException):
    """What the handler that was there before raises."""


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    def raise_it(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, raise_it)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_signal_waits_for_the_check() -> None:
    with pytest.raises(Terminated), DeferredTermination() as termination:
        termination.check()
        signal.raise_signal(signal.SIGTERM)
        came_to_here = True
        termination.check()
    assert came_to_here


def test_a_signal_is_not_lost_at_the_end() -> None:
    with pytest.raises(Terminated), DeferredTermination():
        signal.raise_signal(signal.SIGTERM)


def test_the_handler_from_before_is_back_afterwards() -> None:
    with pytest.raises(ValueError, match="another"), DeferredTermination():
        raise ValueError("another error")
    with pytest.raises(Terminated):
        signal.raise_signal(signal.SIGTERM)


def test_another_thread_leaves_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    inside: list[object] = []

    def work() -> None:
        with DeferredTermination() as termination:
            inside.append(signal.getsignal(signal.SIGTERM))
            termination.check()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]
