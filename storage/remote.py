"""Files behind any fsspec file system: written locally first, then uploaded whole."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from controlmill.errors import StorageError
from storage.filesystem import Entry, redact, remote_call
from storage.staging import Staging

_READ_AT_ONCE = 512
_BLOCK_BYTES = 8 * 1024 * 1024
# folders are made of names there, and makedirs would create a mistyped bucket
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci", "oss", "r2"}
# what the file systems call the thing that changes with the content, best first
_VERSION_KEYS = (
    "ETag", "etag", "md5", "md5Hash", "crc32c", "generation", "version_id", "LastModified", "last_modified", "mtime",
    "modified", "updated", "created",
)  # fmt: skip


def open_remote(uri: str) -> tuple["RemoteFiles", str]:
    """The file system of an URI with a protocol, and the path on it."""
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise StorageError(f"cannot open {redact(uri)}: {redact(str(error))}") from error
    return RemoteFiles(fs), str(path).rstrip("/")


class RemoteFiles:
    """An object store or another remote file system. A single upload is what makes a file visible."""

    is_local = False

    def __init__(self, fs: Any) -> None:
        self.fs = fs
        self._staging = Staging()

    def entries(self, folder: str) -> list[Entry]:
        """Return the entries of a folder sorted by name; empty if it is not there."""
        try:
            with remote_call("list", folder):
                self.fs.invalidate_cache(folder)  # other machines write here too
                found = self.fs.ls(folder, detail=True)
        except FileNotFoundError:
            return []
        own_name = folder.rstrip("/")
        entries = [_entry(info) for info in found if str(info["name"]).rstrip("/") != own_name]
        return sorted(entries, key=lambda entry: entry.name)

    def stat(self, path: str) -> Entry | None:
        """Return one entry, None if it is not there."""
        try:
            with remote_call("read", path):
                self.fs.invalidate_cache(self.fs._parent(path))  # noqa: SLF001 - fsspec's name for the parent folder
                return _entry(self.fs.info(path))
        except FileNotFoundError:
            return None

    def read(self, path: str) -> bytes | None:
        """Return a whole file, None if it is not there."""
        try:
            with remote_call("read", path):
                return cast("bytes", self.fs.cat_file(path))
        except FileNotFoundError:
            return None

    def read_many(self, paths: list[str]) -> Iterator[tuple[str, bytes]]:
        """Yield path and content of those files that are there; many requests at once where the file system can."""
        for start in range(0, len(paths), _READ_AT_ONCE):
            some = paths[start : start + _READ_AT_ONCE]
            with remote_call("read", some[0]):
                contents = self.fs.cat(some, on_error="return")
            for path in some:
                data = contents.get(path)
                if isinstance(data, FileNotFoundError):
                    continue
                with remote_call("read", path):
                    if isinstance(data, BaseException):
                        raise data
                if data is not None:
                    yield path, data

    def open(self, path: str) -> BinaryIO:
        """Open a seekable file for reading; raises FileNotFoundError."""
        with remote_call("read", path):
            return cast("BinaryIO", self.fs.open(path, "rb", block_size=_BLOCK_BYTES))

    def make_folder(self, folder: str) -> None:
        """Create a folder where the file system has such a thing."""
        protocols = {self.fs.protocol} if isinstance(self.fs.protocol, str) else set(self.fs.protocol)
        if protocols & _OBJECT_STORES:
            return
        with remote_call("write", folder):
            self.fs.makedirs(folder, exist_ok=True)

    def new_temporary(self, path: str) -> str:
        """Return the name of a new file in a new folder of the local disk."""
        with remote_call("write", tempfile.gettempdir()):
            return str(self._staging.new_folder() / Path(path).name)

    def discard_temporary(self, temporary: str) -> None:
        """Delete a file of `new_temporary` and its folder."""
        self._staging.discard(Path(temporary).parent)

    def publish(self, temporary: str, path: str, *, durably: bool = True) -> None:  # noqa: ARG002 it always is
        """Upload a complete temporary file."""
        self.make_folder(self.fs._parent(path))  # noqa: SLF001 - fsspec's name for the parent folder
        with remote_call("write", path):
            self.fs.put_file(temporary, path)
        self.discard_temporary(temporary)

    def write(self, path: str, data: bytes) -> None:
        """Write a small file with one request."""
        self.make_folder(self.fs._parent(path))  # noqa: SLF001 - fsspec's name for the parent folder
        with remote_call("write", path):
            self.fs.pipe_file(path, data)

    def delete(self, path: str) -> None:
        """Delete a file; no error if it is not there."""
        try:
            with remote_call("delete", path):
                self.fs.rm_file(path)
        except FileNotFoundError:
            return

    def delete_folder(self, folder: str) -> None:
        """Do nothing: the folders of an object store go with their last file."""


def _entry(info: dict[str, Any]) -> Entry:
    version = next((str(info[key]) for key in _VERSION_KEYS if info.get(key) is not None), "")
    name = str(info["name"]).rstrip("/").rsplit("/", 1)[-1]
    return Entry(name, int(info.get("size") or 0), info.get("type") == "directory", version)
