"""Where data and weights are: storage that can be written, weights that are there, environments that are made."""

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from controlmill.errors import StorageError
from flows.doctor.finding import Finding
from storage.filesystem import open_files, redact
from storage.weights.survey import find

_LOW_BYTES = 10 * 2**30


def storage(uri: str) -> Iterator[Finding]:
    """Write a small file at the place of a dataset or run, read it back, and delete it."""
    what = "storage"
    try:
        files, root = open_files(uri)
        what = f"storage {redact(root if files.is_local else uri)}"
        folder_was_there = bool(files.entries(root)) or (files.is_local and Path(root).is_dir())
        path, data = f"{root}/.doctor-{secrets.token_hex(4)}", secrets.token_bytes(1024)
        files.make_folder(root)
        try:
            files.write(path, data)
            same = files.read(path) == data
        finally:
            files.delete(path)
            if not folder_was_there:
                files.delete_folder(root)
    except StorageError as error:
        yield Finding(what, "problem", str(error), _REMOTE_REMEDY if "://" in uri else "check path and permissions")
        return
    if not same:
        yield Finding(what, "problem", "what was read is not what was written", "do not keep a dataset there")
    elif files.is_local:
        yield _space(what, Path(root))
    else:
        yield Finding(what, "good", "written, read and deleted")


_REMOTE_REMEDY = "check the bucket's name, the credentials in the environment and FSSPEC_<PROTOCOL>_ENDPOINT_URL"


def _space(what: str, folder: Path) -> Finding:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"written, read and deleted; {free / 2**30:,.0f} GiB free"
    if free < _LOW_BYTES:
        return Finding(what, "note", text, "a million images of 512 px take about 100 GiB: choose another disk")
    return Finding(what, "good", text)


def weights() -> Iterator[Finding]:
    """Weights of the annotators, on this machine; the hub is not asked."""
    from tasks.annotators import registry

    there: list[str] = []
    missing: list[str] = []
    for name in (name for name in registry.names() if name not in registry.PRESETS):
        files = registry.find(name).weights
        if files:
            (there if all(found for _, found in find(files)) else missing).append(name)
    if missing:
        remedy = "downloaded when first used, or now: controlmill weights fetch " + " ".join(missing)
        yield Finding("weights", "note", f"not on this machine for: {', '.join(missing)}", remedy)
    if there:
        yield Finding("weights", "good", f"on this machine for: {', '.join(there)}")


def environments() -> Iterator[Finding]:
    """Isolated interpreters."""
    from tasks.environments import ENVIRONMENTS, state

    for name in sorted(ENVIRONMENTS):
        found = state(name)
        if found.problem is None:
            yield Finding(f"environment {name}", "good", str(found.folder))
        else:
            text, _, remedy = found.problem.partition("; ")
            yield Finding(f"environment {name}", "note", f"{text}; for {found.environment.purpose}", remedy)
