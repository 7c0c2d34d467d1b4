"""One small surface over the local disk and any fsspec file system: whole files, atomically, and listings in bulk.

Remote file systems are configured as fsspec configures them: `FSSPEC_<PROTOCOL>_<OPTION>` variables (for example
`FSSPEC_S3_ENDPOINT_URL`), files in `~/.config/fsspec`, and each SDK's own credentials from the environment. Options
inside of an URI are never needed, so an URI can be printed; `redact` hides what somebody put there all the same.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from controlmill.errors import ControlmillError, StorageError, StorageWriteError

_USERINFO = re.compile(r"(?<=://)[^/\s]+@")
_QUERY = re.compile(r"\?[^\s?]*=[^\s'\")]*")
_LEFTOVER = re.compile(r"^\..+\.tmp$")


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder; `modified` is whatever the file system changes with the content (mtime, ETag)."""

    name: str
    size: int
    is_folder: bool
    modified: str


class Files(Protocol):
    """What a dataset and the readers of sources need from a file system; paths are absolute, without a protocol."""

    @property
    def is_local(self) -> bool:
        """Whether this is the local disk."""

    @property
    def fs(self) -> Any:
        """The same as an fsspec file system."""

    def entries(self, folder: str) -> list[Entry]:
        """Return the entries of a folder sorted by name; empty if it is not there."""

    def stat(self, path: str) -> Entry | None:
        """Return one entry, None if it is not there."""

    def read(self, path: str) -> bytes | None:
        """Return a whole file, None if it is not there."""

    def read_many(self, paths: list[str]) -> Iterator[tuple[str, bytes]]:
        """Yield path and content of those files that are there, in the given order."""

    def open(self, path: str) -> BinaryIO:
        """Open a seekable file for reading; raises FileNotFoundError."""

    def make_folder(self, folder: str) -> None:
        """Create a folder and its parents where they are missing."""

    def new_temporary(self, path: str) -> str:
        """Return the name of a new local file that `publish` will turn into `path`."""

    def discard_temporary(self, temporary: str) -> None:
        """Delete a file of `new_temporary`, whether or not it came to be."""

    def publish(self, temporary: str, path: str, *, durably: bool = True) -> None:
        """Make a complete, synced temporary file visible as `path`, in one step.

        Not `durably` where something else in the folder is made visible durably right after it.
        """

    def write(self, path: str, data: bytes) -> None:
        """Write a small file in one step."""

    def delete(self, path: str) -> None:
        """Delete a file; no error if it is not there."""

    def delete_folder(self, folder: str) -> None:
        """Delete a folder that is empty; no error if it is not there or not empty."""


def redact(uri: str) -> str:
    """An URI or message without user names, passwords and signed queries."""
    return _QUERY.sub("?***", _USERINFO.sub("***@", uri))


def one_line(error: BaseException) -> str:
    """The cause of an error as one line for a person, without secrets."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return redact(" ".join(text.split())) or type(error).__name__


def is_leftover(name: str) -> bool:
    """Whether a file name is that of a temporary file of ours."""
    return _LEFTOVER.match(name) is not None


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn what the system answers to a write (ENOSPC, EACCES, EROFS, EDQUOT, ...) into `StorageWriteError`."""
    try:
        yield
    except OSError as error:
        raise StorageWriteError(f"cannot write {redact(path)}: {one_line(error)}") from error


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn an operating system error while reading into `StorageError`; a missing file stays FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"cannot read {redact(path)}: {one_line(error)}") from error


@contextmanager
def remote_call(verb: str, path: str) -> Iterator[None]:
    """The same for a remote file system, whose SDK raises errors of its own kinds.

    A missing file stays FileNotFoundError, but for the verb "write": there it is the bucket that is missing.
    """
    try:
        yield
    except ControlmillError:
        raise
    # every fsspec backend leaks exceptions of its SDK (botocore's NoCredentialsError is no OSError)
    except Exception as error:
        if isinstance(error, FileNotFoundError) and verb != "write":
            refused = _refusal(error, path)
            if refused is None:
                raise
            raise StorageError(f"cannot {verb} {redact(path)}: {one_line(refused)}") from error
        kind = StorageWriteError if verb in {"write", "delete"} else StorageError
        raise kind(f"cannot {verb} {redact(path)}: {one_line(error)}") from error


def _refusal(error: FileNotFoundError, path: str) -> BaseException | None:
    """What a web server really said: to fsspec's HTTP file system every failure is a missing file."""
    cause = error.__cause__
    if not path.startswith(("http://", "https://")) or isinstance(cause, FileNotFoundError):
        return None
    return None if getattr(cause, "status", None) in (404, 410) else cause


def open_files(uri: str) -> tuple[Files, str]:
    """The file system of an URI or local path, and the path on it (absolute where it is local).

    Raises:
        StorageError: the protocol is not known, or its package is not installed.
    """
    from storage.local import LocalFiles
    from storage.remote import open_remote

    if "://" not in uri and "::" not in uri:
        return LocalFiles(), LocalFiles.absolute(uri)
    if uri.startswith("file://"):
        return LocalFiles(), LocalFiles.absolute(uri.removeprefix("file://"))
    return open_remote(uri)
