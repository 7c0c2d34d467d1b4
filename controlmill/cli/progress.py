"""Progress of a run on a terminal."""

import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from controlmill.cli.training_events import ENDS_FORECAST, foreseen, sentence
from controlmill.progress import Clock, Tally, UpdateTally
from controlmill.reasons import Reason


class RichObserver:
    """Rows, shards, speed, time left and failures by reason, kept at the bottom of the terminal."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._tally = Tally(clock)
        self._updates = UpdateTally(clock)
        self._clock = clock
        self._started = clock()
        self._doing = "starting"
        self._foreseen = ""
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self.render, console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._doing = "done"
        self._live.stop()

    def planned(self, num_shards: int, num_rows: int, *, complete: bool) -> None:
        """Set the totals."""
        with self._lock:
            self._tally.plan(num_shards, num_rows, complete=complete)

    def rows(self, done: int, failed: Mapping[Reason, int]) -> None:
        """Set the rows that came to their end."""
        with self._lock:
            self._tally.count(done, failed)

    def shard_done(self, shard: int) -> None:  # noqa: ARG002 the number says nothing in a bar
        """Count a shard."""
        with self._lock:
            self._tally.shards_done += 1

    def trained(self, record: Mapping[str, Any]) -> None:
        """Take over one update of a training run."""
        with self._lock:
            self._updates.count(record)

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Leave a sentence above the bars where a person should know of it; else say it for the moment."""
        if name == "forecast":
            self._foreseen = foreseen(fields)
            return
        if name in ENDS_FORECAST:
            self._foreseen = ""
        said = sentence(name, fields)
        if said is None:
            self._doing = " ".join([name, *(f"{key}={value}" for key, value in fields.items())])
        else:
            self._live.console.print(Text.assemble((_clock_text(self._clock() - self._started), "cyan"), " ", said))

    def message(self, text: str) -> None:
        """Say what is being done."""
        self._doing = text

    def render(self) -> RenderableType:
        """What stands on the terminal at this moment."""
        with self._lock:
            tally = self._tally
            more = "" if tally.complete else "+"
            lines = Table.grid(padding=(0, 1))
            lines.add_column(width=6)
            lines.add_column(width=30)
            lines.add_column(min_width=16, justify="right", no_wrap=True)
            lines.add_column(no_wrap=True)
            if tally.num_rows:
                lines.add_row(*_bar("rows", tally.rows_done, tally.num_rows, more), Text(self._speed(), "cyan"))
                lines.add_row(*_bar("shards", tally.shards_done, tally.num_shards, more), Text(self._left(), "cyan"))
            if self._updates.num_updates:
                done, total = self._updates.done, self._updates.num_updates
                lines.add_row(*_bar("update", done, total, ""), Text(self._training(), "cyan"))
            elapsed = _clock_text(self._clock() - self._started)
            parts: list[RenderableType] = [lines] if tally.num_rows or self._updates.num_updates else []
            if tally.failures:
                parts.append(_failures(tally))
            if self._foreseen:
                parts.append(Text(self._foreseen, "magenta", overflow="ellipsis", no_wrap=True))
            return Group(*parts, Text.assemble((elapsed, "cyan"), " ", self._doing, overflow="ellipsis", no_wrap=True))

    def _speed(self) -> str:
        return f"{self._tally.speed()[1]:,.1f} images/s"

    def _training(self) -> str:
        left = self._updates.seconds_left()
        text = f"loss {self._updates.record['loss']:.4f}  {self._updates.speed()[1]:,.1f} images/s"
        return text if left is None else f"{text}  {_clock_text(left)} left"

    def _left(self) -> str:
        left = self._tally.seconds_left()
        return f"{_clock_text(left)} left" if left is not None else ""


def _bar(name: str, done: int, total: int, more: str) -> tuple[str, RenderableType, str]:
    return name, ProgressBar(total=total, completed=done, width=30), f"{done:,}/{total:,}{more}"


def _failures(tally: Tally) -> Text:
    text = Text("failed ", overflow="ellipsis", no_wrap=True)
    for reason, num in tally.failures.most_common():
        text.append(f" {reason.value} ")
        text.append(f"{num:,}", style="yellow")
    return text


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
