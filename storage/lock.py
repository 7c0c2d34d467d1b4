"""One writer at a time: a lock on a local folder, held by a process and let go of by its death."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from controlmill.errors import FolderLockedError, StorageError
from storage.filesystem import open_files, redact, writing

LOCK_NAME = ".controlmill.lock"


@contextmanager
def locked(uri: str) -> Iterator[None]:
    """Keep every other controlmill process from writing to a folder, which is made where it is not there.

    Remote file systems have no locks, so nothing there.

    Raises:
        FolderLockedError: another process has it; the message names it.
    """
    files, root = open_files(uri)
    if not files.is_local:
        yield
        return
    files.make_folder(root)
    path = Path(root) / LOCK_NAME
    with writing(str(path)):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(descriptor, uri)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, uri: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        raise FolderLockedError(
            f"{redact(uri)} is in use by another controlmill (process {holder}): wait for it or stop it"
        ) from error
    except OSError as error:
        raise StorageError(f"cannot lock {redact(uri)}: {error.strerror}") from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
