"""A dataset: a folder, on the local disk or behind an fsspec URI, of layers."""

import json
import threading
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

from controlmill.errors import DatasetMismatchError, DatasetMissingError
from storage.description import FORMAT_VERSION, Description
from storage.filesystem import Files, is_leftover, open_files, redact
from storage.layer import FAILURES, Layer
from storage.lock import locked

DESCRIPTION_NAME = "dataset.json"

_describe_lock = threading.Lock()


class Dataset:
    """A folder of layers. Making one of these touches nothing; it is small and can be pickled."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __reduce__(self) -> tuple[type["Dataset"], tuple[str]]:
        return Dataset, (self.uri,)

    def __repr__(self) -> str:
        return f"Dataset({redact(self.uri)!r})"

    @classmethod
    def open(cls, uri: str) -> "Dataset":
        """The dataset at `uri`.

        Raises:
            DatasetMissingError: there is none.
            DatasetMismatchError: it was written by a newer controlmill.
        """
        dataset = cls(uri)
        if dataset.read_description() is None:
            raise DatasetMissingError(f"{redact(uri)} is no controlmill dataset: it has no {DESCRIPTION_NAME}")
        return dataset

    @classmethod
    def create(cls, uri: str) -> "Dataset":
        """The dataset at `uri`, started there if the folder is missing or empty.

        Raises:
            DatasetMismatchError: the folder holds something else, or a dataset of a newer controlmill.
            StorageWriteError: it cannot be written.
        """
        dataset = cls(uri)
        if dataset.read_description() is None:
            foreign = [entry.name for entry in dataset.files.entries(dataset.root) if not entry.name.startswith(".")]
            if foreign:
                raise DatasetMismatchError(
                    f"{redact(uri)} is not empty and no controlmill dataset (it holds {foreign[0]!r}): "
                    "choose another output folder"
                )
            dataset._write_description(Description())
        return dataset

    @cached_property
    def _opened(self) -> tuple[Files, str]:
        return open_files(self.uri)

    @property
    def files(self) -> Files:
        """The file system, as the rest of `storage` uses it."""
        return self._opened[0]

    @property
    def fs(self) -> Any:
        """The file system, as fsspec knows it."""
        return self.files.fs

    @property
    def root(self) -> str:
        """The folder's path on that file system, without a protocol."""
        return self._opened[1]

    @property
    def address(self) -> str:
        """The URI in a form that is right in every process of this machine, whatever folder it works in."""
        return self.root if self.files.is_local else self.uri

    def layers(self) -> list[str]:
        """Names of the layers that are there, sorted; the failures are no layer."""
        entries = self.files.entries(self.root)
        names = (entry.name for entry in entries if entry.is_folder)
        return [name for name in names if not name.startswith((".", "_")) and name != FAILURES]

    def layer(self, name: str) -> Layer:
        """A layer, whether or not it has files."""
        return Layer(self, name)

    @property
    def failures(self) -> Layer:
        """The files of failed rows."""
        return Layer(self, FAILURES)

    def description(self) -> Description:
        """What `dataset.json` says.

        Raises:
            DatasetMissingError: it is not there.
            DatasetMismatchError: a newer controlmill wrote it, or it is damaged.
        """
        description = self.read_description()
        if description is None:
            raise DatasetMissingError(f"{redact(self.uri)} is no controlmill dataset: it has no {DESCRIPTION_NAME}")
        return description

    def describe(self, **changes: Any) -> Description:
        """Change fields of `dataset.json` in one step; the others stay. Only the holder of the lock calls this."""
        with _describe_lock:
            old = self.read_description() or Description()
            new = Description.model_validate({**dict(old), **changes})
            if new != old or self.read_description() is None:
                self._write_description(new)
            return new

    def lock(self) -> AbstractContextManager[None]:
        """Keep every other controlmill process from writing here, see `storage.lock`.

        Raises:
            FolderLockedError: another process has it; the message names it.
        """
        return locked(self.uri)

    def remove_leftovers(self) -> int:
        """Delete the temporary files of dead runs and return their number; only the holder of the lock calls this."""
        if not self.files.is_local:
            return 0
        folders = [self.root, *(f"{self.root}/{name}" for name in [*self.layers(), FAILURES])]
        num_removed = 0
        for folder in folders:
            for entry in self.files.entries(folder):
                if is_leftover(entry.name) and not entry.is_folder:
                    self.files.delete(f"{folder}/{entry.name}")
                    num_removed += 1
        return num_removed

    def delete_layers(self) -> None:
        """Delete what controlmill made: files of shards, the card and the description. What else is there stays.

        Raises:
            DatasetMissingError: this is no dataset, and nothing is deleted.
        """
        self.description()
        # the images first: a dataset that is half deleted then is one that is not done
        for name in ["image", *(name for name in self.layers() if name != "image"), FAILURES]:
            self._delete_layer(self.layer(name))
        self.files.delete(f"{self.root}/README.md")
        self._write_description(Description())

    def _delete_layer(self, layer: Layer) -> None:
        if layer.name not in {"source", "image", FAILURES} and not any(layer.iter_records()):
            return  # a folder of somebody else's
        self.files.delete(layer.index_path)
        for shard, kind, _size in sorted(layer.files(), key=lambda found: found[1], reverse=True):
            self.files.delete(layer.record_path(shard) if kind == "_stats.json" else layer.path(shard))
        self.files.delete_folder(layer.folder)

    def read_description(self) -> Description | None:
        """What `dataset.json` says, None if it is not there."""
        data = self.files.read(f"{self.root}/{DESCRIPTION_NAME}")
        if data is None:
            return None
        place = redact(f"{self.uri}/{DESCRIPTION_NAME}")
        try:
            content = json.loads(data)
            version = int(content["format_version"])
            if version > FORMAT_VERSION:
                raise DatasetMismatchError(
                    f"{place} was written by a newer controlmill (format {version}, this one knows {FORMAT_VERSION}): "
                    "update controlmill"
                )
            return Description.model_validate(content)
        except (ValueError, KeyError, TypeError) as error:  # pydantic's ValidationError is a ValueError
            raise DatasetMismatchError(
                f"{place} is damaged: {type(error).__name__}; restore it or start anew"
            ) from error

    def _write_description(self, description: Description) -> None:
        data = description.model_dump_json(indent=2).encode() + b"\n"
        self.files.write(f"{self.root}/{DESCRIPTION_NAME}", data)
