"""What a person sees of a run on Prefect's page: its log, how far it is, and the last words of its workers."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger
from prefect.logging.handlers import APILogWorker

from controlmill.errors import EngineError
from controlmill.logs import also_to
from controlmill.progress import Clock, Observer, Tally, UpdateTally, observe, observer
from controlmill.reasons import Reason
from flows.ownership import owned
from flows.worker_output import WorkerOutput, listening
from storage.filesystem import redact

_EVERY_S = 10.0
_LAST_WORDS_S = 3.0


@contextmanager
def on_page() -> Iterator[None]:
    """Tell Prefect what happens in the flow run that this is called in; on top of whoever observes already."""
    logger = get_run_logger()

    def say(line: str) -> None:
        logger.info(redact(line))

    with owned(), also_to(say), listening(say) as output, observe(PageObserver(observer(), say)):
        try:
            yield
        except EngineError as error:
            _add_last_words(error, output)
            raise
        finally:
            flush()


def flush() -> None:
    """Send the lines that are still queued: a process that is killed next has told them."""
    APILogWorker.drain_all(timeout=_LAST_WORDS_S)


def _add_last_words(error: EngineError, output: WorkerOutput) -> None:
    """Attach what workers wrote last: Prefect shows it under the traceback."""
    words = output.last_words()
    if words:
        error.add_note("workers wrote last:\n" + redact("\n".join(words)))


class PageObserver:
    """Passes on what it is told, and keeps a bar on the page of the run."""

    def __init__(self, other: Observer, say: Callable[[str], None], clock: Clock = time.monotonic) -> None:
        self._other = other
        self._say = say
        self._clock = clock
        self._next_s = clock()
        self._bar: Any = None
        self._tally = Tally(clock)
        self._updates = UpdateTally(clock)

    def planned(self, num_shards: int, num_rows: int, *, complete: bool) -> None:
        """Take over the totals."""
        self._other.planned(num_shards, num_rows, complete=complete)
        self._tally.plan(num_shards, num_rows, complete=complete)

    def rows(self, done: int, failed: Mapping[Reason, int]) -> None:
        """Move the bar."""
        self._other.rows(done, failed)
        self._tally.count(done, failed)
        tally = self._tally
        if tally.complete and tally.num_rows:
            text = f"{tally.rows_done:,} of {tally.num_rows:,} rows, {tally.num_failed:,} failed"
            self._show(tally.rows_done / tally.num_rows, text, tally.seconds_left())

    def shard_done(self, shard: int) -> None:
        """Pass on."""
        self._other.shard_done(shard)

    def trained(self, record: Mapping[str, Any]) -> None:
        """Move the bar."""
        self._other.trained(record)
        self._updates.count(record)
        done, total = self._updates.done, self._updates.num_updates
        self._show(
            done / total, f"update {done:,} of {total:,}, loss {record['loss']:.4f}", self._updates.seconds_left()
        )

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Pass on; the log of a training run has its events from elsewhere."""
        self._other.event(name, fields)

    def message(self, text: str) -> None:
        """Say it in the log too."""
        self._other.message(text)
        self._say(text)

    def _show(self, share: float, text: str, seconds_left: float | None) -> None:
        now_s = self._clock()
        if now_s < self._next_s and share < 1:
            return
        self._next_s = now_s + _EVERY_S
        left = "" if seconds_left is None or share >= 1 else f", about {seconds_left / 60:,.0f} minutes left"
        # Prefect's client waits for its server here, at most every ten seconds
        if self._bar is None:
            self._bar = create_progress_artifact(100 * share, key="progress", description=text + left)
        else:
            update_progress_artifact(self._bar, 100 * share, description=text + left)
