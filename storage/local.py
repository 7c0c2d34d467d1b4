"""Files on the local disk: temporary name, fsync, rename, fsync of the folder."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from storage.filesystem import Entry, reading, writing


class LocalFiles:
    """The local disk (and whatever is mounted into it)."""

    is_local = True

    @property
    def fs(self) -> Any:
        """The same as an fsspec file system."""
        from fsspec.implementations.local import LocalFileSystem

        return LocalFileSystem()

    @staticmethod
    def absolute(path: str) -> str:
        """An absolute path, without a slash at its end."""
        return str(Path(path).expanduser().absolute())

    def entries(self, folder: str) -> list[Entry]:
        """Return the entries of a folder sorted by name; empty if it is not there."""
        try:
            with reading(folder), os.scandir(folder) as scanned:
                found = [_entry(entry) for entry in scanned]
        except FileNotFoundError:
            return []
        return sorted((entry for entry in found if entry is not None), key=lambda entry: entry.name)

    def stat(self, path: str) -> Entry | None:
        """Return one entry, None if it is not there."""
        try:
            with reading(path):
                stat = Path(path).stat()
        except FileNotFoundError:
            return None
        return Entry(Path(path).name, stat.st_size, Path(path).is_dir(), str(stat.st_mtime_ns))

    def read(self, path: str) -> bytes | None:
        """Return a whole file, None if it is not there."""
        try:
            with reading(path):
                return Path(path).read_bytes()
        except FileNotFoundError:
            return None

    def read_many(self, paths: list[str]) -> Iterator[tuple[str, bytes]]:
        """Yield path and content of those files that are there, in the given order."""
        for path in paths:
            data = self.read(path)
            if data is not None:
                yield path, data

    def open(self, path: str) -> BinaryIO:
        """Open a seekable file for reading; raises FileNotFoundError."""
        with reading(path):
            return Path(path).open("rb")

    def make_folder(self, folder: str) -> None:
        """Create a folder and its parents where they are missing."""
        path = Path(folder)
        if path.is_dir():
            return
        with writing(folder):
            path.mkdir(parents=True, exist_ok=True)
            _sync_folder(path.parent)

    def new_temporary(self, path: str) -> str:
        """Return the name of a new file in the folder of `path`, which is created if it is missing."""
        final = Path(path)
        self.make_folder(str(final.parent))
        return str(final.parent / f".{final.name}.{secrets.token_hex(6)}.tmp")

    def discard_temporary(self, temporary: str) -> None:
        """Delete a file of `new_temporary`, whether or not it came to be."""
        self.delete(temporary)

    def publish(self, temporary: str, path: str) -> None:
        """Rename a complete, synced temporary file to `path`."""
        with writing(path):
            Path(temporary).replace(path)
            _sync_folder(Path(path).parent)

    def write(self, path: str, data: bytes) -> None:
        """Write a small file in one step."""
        temporary = self.new_temporary(path)
        try:
            with writing(path), Path(temporary).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self.publish(temporary, path)
        except BaseException:
            self.discard_temporary(temporary)
            raise

    def delete(self, path: str) -> None:
        """Delete a file; no error if it is not there."""
        with writing(path):
            Path(path).unlink(missing_ok=True)

    def delete_folder(self, folder: str) -> None:
        """Delete a folder that is empty; no error if it is not there or not empty."""
        path = Path(folder)
        if path.is_dir() and not any(path.iterdir()):
            with writing(folder):
                path.rmdir()


def _entry(entry: "os.DirEntry[str]") -> Entry | None:
    try:
        stat = entry.stat()
    except FileNotFoundError:  # deleted since the listing began, or a dangling link
        return None
    return Entry(entry.name, stat.st_size, entry.is_dir(), str(stat.st_mtime_ns))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
