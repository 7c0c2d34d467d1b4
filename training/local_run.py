"""The small files of a run on this machine, wherever its folder is."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from controlmill.errors import RunUnusableError
from storage.filesystem import open_files, redact
from training.metrics import SAMPLES
from training.probe_log import PROBE_LOG
from training.restart import EARLIER

CONFIG = "config.json"
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
    with local_files(address) as folder:
        yield folder


@contextmanager
def local_log(address: str) -> Iterator[Path]:
    """A probe log on this machine with what lies beside it: the file itself, or that of a run's folder.

    Raises:
        RunUnusableError: there is no such log.
    """
    folder, _, name = address.rpartition("/")
    if not address.endswith(".jsonl"):
        folder, name = address.rstrip("/"), PROBE_LOG
    with local_files(folder) as copied:
        if not (copied / name).is_file():
            raise RunUnusableError(f"{redact(folder)}/{name}: cannot read the probe log: there is none")
        yield copied / name


@contextmanager
def local_files(address: str) -> Iterator[Path]:
    """The same as `local_run`, of a folder that need not have options yet; messages name the address, not the copy."""
    files, root = open_files(address)
    if files.is_local:
        yield Path(root)
        return
    with tempfile.TemporaryDirectory(prefix="controlmill-run-") as folder:
        for below in ("", SAMPLES, EARLIER):
            source, target = f"{root}/{below}".rstrip("/"), Path(folder) / below
            target.mkdir(exist_ok=True)
            for entry in files.entries(source):
                if not entry.is_folder and entry.name.endswith(_KINDS):
                    (target / entry.name).write_bytes(files.read(f"{source}/{entry.name}") or b"")
        try:
            yield Path(folder)
        except RunUnusableError as error:
            raise RunUnusableError(str(error).replace(folder, redact(address))) from error
