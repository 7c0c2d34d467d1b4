"""One build of one dataset: locked, checked against what the dataset is, and its source planned in the background."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from flows.planner import BackgroundPlanner
from storage.dataset import Dataset


@dataclass(frozen=True)
class Session:
    """What a flow works on."""

    dataset: Dataset
    planner: BackgroundPlanner


_current: ContextVar[Session | None] = ContextVar("session", default=None)


@contextmanager
def session(dataset: Dataset, plan: Callable[[], Iterable[int]]) -> Iterator[Session]:
    """Lock the dataset, clear what killed runs left, and start to plan; the session that is open already is joined.

    The command line opens it before Ray and Prefect start, so that a missing source is told at once and planning runs
    beside their start; a deployment's flow opens its own.
    """
    opened = _current.get()
    if opened is not None and opened.dataset.uri == dataset.uri:
        yield opened
        return
    with ExitStack() as stack:
        stack.enter_context(dataset.lock())
        dataset.remove_leftovers()
        planner = stack.enter_context(BackgroundPlanner(plan))
        planner.check(timeout_s=0.5)
        opened = Session(dataset, planner)
        token = _current.set(opened)
        try:
            yield opened
        finally:
            _current.reset(token)
            # whatever was under way has ended, also what a worker wrote that was killed and whose task ran again
            dataset.remove_leftovers()
