"""The small files of a run, wherever its folder is."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from controlmill.errors import RunUnusableError
from storage.filesystem import open_files, redact
from training.restart import EARLIER

CONFIG = "config.json"
SAMPLES = "samples"
_KINDS = (".jsonl", ".json", ".png")


@contextmanager
def local_run(address: str) -> Iterator[Path]:
    """A folder of this machine with logs, options and sample grids of a run; those of a remote one are copied.

    Raises:
        RunUnusableError: there is no run at this place.
    """
    files, root = open_files(address)
    if files.read(f"{root}/{CONFIG}") is None:
        raise RunUnusableError(f"{redact(address)} is no run of controlmill train: it has no {CONFIG}")
    if files.is_local:
        yield Path(root)
        return
    with tempfile.TemporaryDirectory(prefix="controlmill-report-") as folder:
        for below in ("", SAMPLES, EARLIER):
            source, target = f"{root}/{below}".rstrip("/"), Path(folder) / below
            target.mkdir(exist_ok=True)
            for entry in files.entries(source):
                if not entry.is_folder and entry.name.endswith(_KINDS):
                    (target / entry.name).write_bytes(files.read(f"{source}/{entry.name}") or b"")
        yield Path(folder)


def read_options(run: Path) -> dict[str, Any]:
    """The options of a run.

    Raises:
        RunUnusableError: its config.json is broken.
    """
    try:
        values = json.loads((run / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
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
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines
