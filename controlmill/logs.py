"""Log events with fields: `shard_written shard=00012 rows=981`, to stderr, or the same as JSON.

Plain functions that work anywhere, also in a worker that configured nothing; the command line configures them once.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, WrappedLogger

LogFormat = Literal["text", "json"]

_logfmt = structlog.processors.LogfmtRenderer(bool_as_flag=False)


class _StderrLogger:
    """Writes to what stderr is at that moment: a progress bar puts itself between, and tests exchange it."""

    def msg(self, line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    info = warning = msg


def _text(logger: WrappedLogger, name: str, event: EventDict) -> str:
    words = [str(event.pop("event"))]
    if event.get("level") == "info":
        del event["level"]
    if event:
        words.append(_logfmt(logger, name, event))
    return " ".join(words)


def configure(log_format: LogFormat = "text", *, only_warnings: bool = False) -> None:
    """Choose how events are written, and whether only warnings are; called by the command line, once."""
    processors: list[Any] = [structlog.processors.add_log_level]
    if log_format == "json":
        processors += [structlog.processors.TimeStamper(fmt="iso"), structlog.processors.JSONRenderer()]
    else:
        processors.append(_text)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger("warning" if only_warnings else "info"),
        logger_factory=lambda *_: _StderrLogger(),
        cache_logger_on_first_use=False,
    )


_listeners: list[Callable[[str], None]] = []


@contextmanager
def also_to(listener: Callable[[str], None]) -> Iterator[None]:
    """Let `listener` have each line too, written as text, inside of the `with` block; from all threads."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def log(event: str, **fields: object) -> None:
    """Something happened."""
    _logger().info(event, **fields)
    _tell(event, fields)


def warning(event: str, **fields: object) -> None:
    """Something happened that a person may want to act on; the run goes on."""
    _logger().warning(event, **fields)
    _tell(event, {"level": "warning", **fields})


def _tell(event: str, fields: dict[str, object]) -> None:
    for listener in _listeners:
        listener(_text(None, "", {"event": event, **fields}))


def _logger() -> Any:
    if not structlog.is_configured():
        configure()
    return structlog.get_logger()
