"""Options and logs of a run, for its page."""

import json
from pathlib import Path
from typing import Any

from controlmill.errors import RunUnusableError
from training.local_run import CONFIG


def read_options(run: Path) -> dict[str, Any]:
    """The options of a run.

    Raises:
        RunUnusableError: its config.json is broken.
    """
    try:
        values = json.loads((run / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunUnusableError(f"{run / CONFIG}: cannot read the options of the run: {error}") from error
    if not isinstance(values, dict):
        raise RunUnusableError(f"{run / CONFIG}: the options of a run are a JSON object")
    return values


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, none where there is no such log; one that a kill cut off is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines
