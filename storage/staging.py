"""Folders for what is written here and then uploaded; those of processes that were killed are found and deleted."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

_PREFIX = "controlmill-upload-"
_YOUNG_S = 60.0
"""Between making a folder and locking it nobody else may take it for abandoned."""


class Staging:
    """Folders that stay locked while this process lives; the lock of a killed one is gone with it."""

    def __init__(self) -> None:
        self._locks: dict[str, int] = {}
        self._looked = False

    def new_folder(self) -> Path:
        """A new folder; the first call also deletes what killed processes have left on this machine."""
        if not self._looked:
            self._looked = True
            _delete_abandoned()
        folder = tempfile.mkdtemp(prefix=_PREFIX)
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._locks[folder] = descriptor
        return Path(folder)

    def discard(self, folder: Path) -> None:
        """Delete a folder with what is in it."""
        shutil.rmtree(folder, ignore_errors=True)
        descriptor = self._locks.pop(str(folder), None)
        if descriptor is not None:
            os.close(descriptor)


def _delete_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # another user's, or gone in this moment: nothing that concerns this run
        with contextlib.suppress(OSError):
            _delete_if_abandoned(folder)


def _delete_if_abandoned(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if time.time() - folder.stat().st_mtime > _YOUNG_S:
            shutil.rmtree(folder)
    finally:
        os.close(descriptor)
