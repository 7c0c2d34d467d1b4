"""Logs of a run read back: one JSON value per line, each with its place for messages."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from controlmill.errors import RunUnusableError
from controlmill.logs import warning

LARGEST = 2**53
"""Whole numbers up to this are exact as floats; a log has none beyond."""


def json_lines(file: Path, what: str) -> Iterator[tuple[str, Any]]:
    """The values of a log and their places (file and line number).

    A last line without an end that is no JSON was cut off when its run was killed: it is passed over with a warning.

    Args:
        file: to read.
        what: the name of such a log in messages.

    Raises:
        RunUnusableError: the file cannot be read, or a line is no JSON.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise RunUnusableError(f"{file}: cannot read the {what}: {reason}") from error
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        try:
            value = _parsed(line)
        except ValueError as error:
            if number == len(lines):
                warning("line_cut_off", place=place, reason="the run was killed while it wrote; passed over")
                return
            raise RunUnusableError(f"{place}: not JSON: {error}") from error
        yield place, value


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number that arithmetic can take."""
    return isinstance(value, float) or (
        isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST
    )


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        # Python's own words for it advise to change the interpreter
        raise ValueError("a number of thousands of digits") from error
