"""Checkpoints of a run: written by all ranks, complete only when their commit.json is there, which is written last.

Under a path of the local disk (or a disk that all machines share) ranks write in place; under any other URI each rank
writes into a folder of its own machine and uploads it.
"""

import itertools
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controlmill.errors import ConfigError, RunUnusableError
from storage.filesystem import open_files, redact
from storage.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMIT = "commit.json"
PREFIX = "checkpoint-"
ASIDE = "set-aside"
"""Folders of a run for checkpoints that it does not go on from any more."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What commit.json says of a checkpoint."""

    update: int
    samples_seen: int
    world_size: int
    zero_stage: int
    launch: str
    """The launch that wrote it: a worker that is started again by the same launch goes on from here."""
    files: Mapping[str, int]
    """Path in the checkpoint to size in bytes."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """Of the loop, the reader and the callbacks."""
    keep: str = ""
    """Why it outlives `checkpoints_total_limit`: the tag that an event gave it; empty where it does not."""

    def to_json(self) -> bytes:
        """The content of commit.json."""
        return json.dumps({"format": 1, **asdict(self)}, indent=1, sort_keys=True).encode()

    @staticmethod
    def from_json(data: bytes, where: str) -> "Commit":
        """Read commit.json; raise `RunUnusableError` where it is none of ours."""
        try:
            values = json.loads(data)
            if values.pop("format") != 1:
                raise RunUnusableError(f"{where}: written by a newer controlmill")
            return Commit(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunUnusableError(f"{where}: not the record of a checkpoint") from error


class Checkpoints:
    """The checkpoints in the folder of a run."""

    def __init__(self, output_dir: str) -> None:
        self._files, self._root = open_files(output_dir)
        self.address = self._root if self._files.is_local else output_dir.rstrip("/")
        """The run's folder as a path or an URI."""
        self._staging = Staging()

    @property
    def is_shared(self) -> bool:
        """Whether all ranks write into one folder, rather than upload."""
        return self._files.is_local

    def address_of(self, update: int) -> str:
        """Where the checkpoint of an update is, as a path or an URI."""
        return f"{self.address}/{PREFIX}{update}"

    def _path(self, update: int) -> str:
        """The same on the file system."""
        return f"{self._root}/{PREFIX}{update}"

    def committed(self) -> list[Commit]:
        """All complete ones, oldest first."""
        updates = []
        for entry in self._files.entries(self._root):
            number = entry.name.removeprefix(PREFIX)
            if entry.is_folder and entry.name.startswith(PREFIX) and number.isdigit():
                updates.append(int(number))
        read = ((update, self._files.read(f"{self._path(update)}/{COMMIT}")) for update in sorted(updates))
        return [Commit.from_json(data, f"{PREFIX}{update}/{COMMIT}") for update, data in read if data is not None]

    def find(self, wanted: str) -> tuple[str, Commit]:
        """The folder and record of `latest`, of a name in this run, or of a path anywhere.

        Raises:
            RunUnusableError: it is not there, not complete, or files of it are missing or cut off.
        """
        if wanted == "latest":
            found = self.committed()
            if not found:
                raise RunUnusableError(
                    f"resume_from_checkpoint latest: no complete checkpoint in {redact(self.address)}"
                )
            return self.checked(self.address_of(found[-1].update)), found[-1]
        folder = f"{self.address}/{wanted}" if wanted.startswith(PREFIX) and "/" not in wanted else wanted
        files, path = open_files(folder)
        data = files.read(f"{path}/{COMMIT}")
        if data is None:
            raise RunUnusableError(
                f"resume_from_checkpoint {redact(wanted)}: no complete checkpoint (no {COMMIT} in it)"
            )
        return self.checked(folder), Commit.from_json(data, f"{redact(folder)}/{COMMIT}")

    @staticmethod
    def checked(folder: str) -> str:
        """The folder, if every file that its record names is there in full; else raise `RunUnusableError`."""
        files, path = open_files(folder)
        data = files.read(f"{path}/{COMMIT}")
        commit = Commit.from_json(data or b"", f"{redact(folder)}/{COMMIT}")
        for name, size in commit.files.items():
            entry = files.stat(f"{path}/{name}")
            if entry is None or entry.size != size:
                what = "is missing" if entry is None else f"has {entry.size} bytes instead of {size}"
                raise RunUnusableError(f"{redact(folder)}: {name} {what}; go on from another checkpoint")
        return folder

    @contextmanager
    def writing(self, update: int) -> "Iterator[str]":
        """A local folder for this rank's files; call `put` with it before the block ends."""
        if self.is_shared:
            folder = self._path(update)
            Path(folder).mkdir(parents=True, exist_ok=True)
            yield folder
            return
        made = self._staging.new_folder()
        try:
            yield str(made)
        finally:
            self._staging.discard(made)

    def clear(self, update: int) -> None:
        """Delete what a killed run left of this checkpoint; the record goes first. Rank 0 only, before others write."""
        self.delete(self._path(update))

    def put(self, folder: str, update: int) -> dict[str, int]:
        """Make this rank's files safe: synced to the disk, or uploaded; returns their sizes by path."""
        sizes: dict[str, int] = {}
        for path in sorted(Path(folder).rglob("*")):
            if not path.is_file() or path.name == COMMIT:
                continue
            name = path.relative_to(folder).as_posix()
            sizes[name] = path.stat().st_size
            if self.is_shared:
                _sync(path)
            else:
                target = f"{self._path(update)}/{name}"
                temporary = self._files.new_temporary(target)
                shutil.copyfile(path, temporary)
                self._files.publish(temporary, target)
        return sizes

    def commit(self, commit: Commit) -> str:
        """Declare a checkpoint complete, after every rank has `put` its files. Rank 0 only; returns its folder.

        Raises:
            ConfigError: files of other ranks are not there, as where machines do not share the disk of `output_dir`.
        """
        folder = self._path(commit.update)
        for name, size in commit.files.items():
            entry = self._files.stat(f"{folder}/{name}")
            if entry is None or entry.size != size:
                raise ConfigError(
                    f"output_dir: {redact(folder)}/{name}, which another worker wrote, is not to be seen here; "
                    "give a folder on a disk that all machines share, or an URI such as s3://bucket/run"
                )
        self._files.write(f"{folder}/{COMMIT}", commit.to_json())
        return self.address_of(commit.update)

    def prune(self, limit: int | None) -> list[int]:
        """Delete the oldest beyond `limit`, but those that are kept for their tag; returns their updates."""
        if limit is None:
            return []
        found = [commit for commit in self.committed() if not commit.keep]
        gone = [commit.update for commit in found[: max(0, len(found) - limit)]]
        for update in gone:
            self.delete(self._path(update))
        return gone

    def set_aside(self, update: int) -> tuple[list[int], str]:
        """Move the checkpoints after `update` out of the way of a run that goes on from there, with a copy of its logs.

        They are of another continuation: by their numbers they would pass for the latest of this one, and new ones
        would be deleted for them. Rank 0 only.

        Returns:
            Their updates, and the folder where they are; none and "" where there are none.
        """
        later = [commit.update for commit in self.committed() if commit.update > update]
        if not later:
            return [], ""
        taken = {entry.name for entry in self._files.entries(self._root)}
        name = next(name for number in itertools.count(1) if (name := f"{ASIDE}-{number}") not in taken)
        self._files.make_folder(f"{self._root}/{name}")
        for log in sorted(one for one in taken if one.endswith(".jsonl")):
            self._files.write(f"{self._root}/{name}/{log}", self._files.read(f"{self._root}/{log}") or b"")
        for one in later:
            self._move(self._path(one), f"{self._root}/{name}/{PREFIX}{one}")
        return later, f"{self.address}/{name}"

    def _move(self, folder: str, target: str) -> None:
        if self.is_shared:
            Path(folder).rename(target)
            return
        # its record is moved first (by its name): what a kill leaves behind is no checkpoint any more
        for path in sorted(self._files.fs.find(folder)):
            self._files.fs.mv(path, f"{target}/{path.removeprefix(folder).lstrip('/')}")

    def delete(self, folder: str) -> None:
        """Delete a checkpoint, its record first: what a kill leaves of it is not complete."""
        self._files.delete(f"{folder}/{COMMIT}")
        if self.is_shared:
            shutil.rmtree(folder, ignore_errors=True)
        elif self._files.stat(folder) is not None:
            self._files.fs.rm(folder, recursive=True)

    @contextmanager
    def local_copy(self, folder: str) -> "Iterator[str]":
        """The checkpoint as a folder of this machine, downloaded where it has to be, for the `with` block."""
        files, path = open_files(folder)
        if files.is_local:
            yield path
            return
        made = self._staging.new_folder()
        try:
            files.fs.get(path, str(made / "checkpoint"), recursive=True)
            yield str(made / "checkpoint")
        finally:
            self._staging.discard(made)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
