"""What a long run tells about itself while it runs: an observer, chosen by the command line, told by the flows."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from controlmill.logs import log
from controlmill.reasons import Reason

_ROWS_TO_TELL = 64
"""Rows that must be done before their speed says how long the others will take."""

Clock = Callable[[], float]


class Observer(Protocol):
    """Is told what happens in a run. All calls come from the process of the command, from any of its threads."""

    def planned(self, num_shards: int, num_rows: int, *, complete: bool) -> None:
        """This run has to do so many shards and rows in all, as far as is known; `complete` once nothing is added."""

    def rows(self, done: int, failed: Mapping[Reason, int]) -> None:
        """In this run so many rows came to their end so far, of which these failed: totals, not what was added."""

    def shard_done(self, shard: int) -> None:
        """One more shard is committed."""

    def trained(self, record: Mapping[str, Any]) -> None:
        """One more update of a training run is done: a line of its metrics.jsonl, and `num_updates` in all."""

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Something happened in a training run, for example `control_following`."""

    def message(self, text: str) -> None:
        """What is being done, or what a person should know: one line."""


class SilentObserver:
    """Tells nobody."""

    def planned(self, num_shards: int, num_rows: int, *, complete: bool) -> None:
        """Ignore."""

    def rows(self, done: int, failed: Mapping[Reason, int]) -> None:
        """Ignore."""

    def shard_done(self, shard: int) -> None:
        """Ignore."""

    def trained(self, record: Mapping[str, Any]) -> None:
        """Ignore."""

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Ignore."""

    def message(self, text: str) -> None:
        """Ignore."""


_observer: ContextVar[Observer] = ContextVar("controlmill_observer", default=SilentObserver())  # noqa: B039 has no state


def observer() -> Observer:
    """The observer of this run; one that ignores everything where nobody asked to observe.

    A new thread starts without its parent's: take the observer before starting threads.
    """
    return _observer.get()


@contextmanager
def observe(who: Observer) -> Iterator[None]:
    """Let `who` be told what happens inside of the `with` block."""
    token = _observer.set(who)
    try:
        yield
    finally:
        _observer.reset(token)


@dataclass
class Tally:
    """The counts behind every observer."""

    clock: Clock = time.monotonic
    window_s: float = 60.0
    """Seconds over which the speed is taken, so that it follows a slow host or an outage."""
    num_shards: int = 0
    num_rows: int = 0
    complete: bool = False
    shards_done: int = 0
    rows_done: int = 0
    failures: Counter[Reason] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._samples = deque([(self.clock(), 0, 0)])

    def plan(self, num_shards: int, num_rows: int, *, complete: bool) -> None:
        """Take over the known totals; the speed is measured from when there are rows.

        Totals that are not complete after they were are those of the next stage of a run: it begins at zero.
        """
        if self.complete and not complete:
            self.num_rows = self.shards_done = self.rows_done = 0
            self.failures = Counter()
        if not self.num_rows:
            self._samples = deque([(self.clock(), 0, 0)])
        self.num_shards, self.num_rows, self.complete = num_shards, num_rows, complete

    def count(self, done: int, failed: Mapping[Reason, int]) -> None:
        """Take over how many rows came to their end so far."""
        now = self.clock()
        self.rows_done = done
        self.failures = Counter(failed)
        self._samples.append((now, done, done - self.num_failed))
        while len(self._samples) > 2 and self._samples[1][0] <= now - self.window_s:
            self._samples.popleft()

    @property
    def num_failed(self) -> int:
        """Rows that failed, over all reasons."""
        return self.failures.total()

    def speed(self) -> tuple[float, float]:
        """Rows and images (rows without a failure) per second, over about the last `window_s` seconds."""
        at, done, images = self._samples[0]
        _, done_now, images_now = self._samples[-1]
        seconds = self.clock() - at
        if seconds <= 0:
            return 0.0, 0.0
        # a shard that is started again takes its rows back
        return max(0, done_now - done) / seconds, max(0, images_now - images) / seconds

    def seconds_left(self) -> float | None:
        """Seconds until the planned rows are done at the present speed; None while that cannot be told."""
        rows_per_s, _ = self.speed()
        if not self.complete or rows_per_s <= 0 or self.rows_done < min(_ROWS_TO_TELL, self.num_rows):
            return None
        return max(0, self.num_rows - self.rows_done) / rows_per_s


@dataclass
class UpdateTally:
    """How far a training run is."""

    clock: Clock = time.monotonic
    window: int = 50
    """Updates over which the speed is taken."""
    done: int = 0
    num_updates: int = 0
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._samples: deque[tuple[float, int, int]] = deque(maxlen=self.window)

    def count(self, record: Mapping[str, Any]) -> None:
        """Take over the record of an update."""
        if record["update"] <= self.done:
            # it goes on from an earlier checkpoint, or began again
            self._samples.clear()
        self.done, self.num_updates, self.record = record["update"], record["num_updates"], record
        self._samples.append((self.clock(), record["update"], record["samples_seen"]))

    def speed(self) -> tuple[float, float]:
        """Updates and images per second over the last updates; zeros before the second one."""
        if len(self._samples) < 2:
            return 0.0, 0.0
        (at, update, images), (now, update_now, images_now) = self._samples[0], self._samples[-1]
        seconds = max(now - at, 1e-9)
        return (update_now - update) / seconds, (images_now - images) / seconds

    def seconds_left(self) -> float | None:
        """Seconds until the last update at the present speed; None before the second one."""
        updates_per_s, _ = self.speed()
        return (self.num_updates - self.done) / updates_per_s if updates_per_s > 0 else None

    def fields(self) -> dict[str, object]:
        """What an event line shows."""
        shown: dict[str, object] = {
            "update": f"{self.done}/{self.num_updates}",
            "epoch": round(self.record["epoch"], 3),
            "loss": round(self.record["loss"], 5),
            "images_per_s": round(self.speed()[1], 1),
        }
        left = self.seconds_left()
        return shown if left is None else {**shown, "left_s": round(left)}


class LogObserver:
    """Writes an event line now and then: for where the output is not a terminal."""

    def __init__(self, every_s: float = 5.0, clock: Clock = time.monotonic) -> None:
        self._tally = Tally(clock)
        self._updates = UpdateTally(clock)
        self._every_s = every_s
        self._clock = clock
        self._next = clock() + every_s

    def planned(self, num_shards: int, num_rows: int, *, complete: bool) -> None:
        """Log the plan once it is complete."""
        was_complete = self._tally.complete
        self._tally.plan(num_shards, num_rows, complete=complete)
        if complete and not was_complete:
            log("planned", shards=num_shards, rows=num_rows)

    def rows(self, done: int, failed: Mapping[Reason, int]) -> None:
        """Count, and log where it is time."""
        self._tally.count(done, failed)
        if self._clock() >= self._next:
            self._log()

    def shard_done(self, shard: int) -> None:  # noqa: ARG002 the shard logs itself
        """Count, and log the end."""
        self._tally.shards_done += 1
        if self._tally.complete and self._tally.shards_done >= self._tally.num_shards:
            self._log()

    def trained(self, record: Mapping[str, Any]) -> None:
        """Log where it is time, and the last update."""
        self._updates.count(record)
        if self._clock() >= self._next or self._updates.done == self._updates.num_updates:
            self._next = self._clock() + self._every_s
            log("training", **self._updates.fields())

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Log it, numbers to four digits: all of them are in events.jsonl."""
        log(
            name, **{key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in fields.items()}
        )

    def message(self, text: str) -> None:
        """Log the line."""
        log(text)

    def _log(self) -> None:
        self._next = self._clock() + self._every_s
        tally = self._tally
        left = tally.seconds_left()
        fields: dict[str, object] = {
            "shards": f"{tally.shards_done}/{tally.num_shards}",
            "rows": f"{tally.rows_done}/{tally.num_rows}",
            "failed": tally.num_failed,
            "images_per_s": round(tally.speed()[1], 1),
        }
        if left is not None:
            fields["left_s"] = round(left)
        log("progress", **fields)
