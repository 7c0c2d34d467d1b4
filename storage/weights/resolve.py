"""Where a file of weights is: as an option says, in $CONTROLMILL_WEIGHTS, in the Hugging Face cache, or on the hub.

A folder of weights may hold a file as `owner/name/file`, as `name/file`, or under its name alone where that name says
which file it is. Nothing is downloaded where HF_HUB_OFFLINE is set. The cache, its place, the token for repositories
that need one and a mirror of the hub are set by the environment variables of `huggingface_hub`.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from controlmill.errors import WeightsMissingError, WeightsUnusableError
from storage.filesystem import one_line
from storage.weights.digest import sha256_of
from storage.weights.reference import FOLDER_VARIABLE, FoundWeights, Origin, WeightsFile

_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve(files: Sequence[WeightsFile], given: str | None = None, *, download: bool = True) -> list[FoundWeights]:
    """Find all `files` on this machine, downloading what is missing; optional ones that do not exist are left out.

    Args:
        files: what is needed.
        given: the user's own file, or folder of files, which is then the only place that is looked at.
        download: whether the hub may be asked.

    Raises:
        WeightsMissingError: naming every file that could not be had, its repository and where to put it.
        WeightsUnusableError: a file cannot be read.
    """
    if given is not None and len(files) > 1 and Path(given).expanduser().is_file():
        names = ", ".join(file.filename for file in files)
        raise WeightsUnusableError(f"weights: {given} is one file, but {names} are needed; give their folder")
    found: list[FoundWeights] = []
    missing: list[tuple[WeightsFile, str | None]] = []
    for file in files:
        one = _find(file, given, download=download)
        if isinstance(one, FoundWeights):
            found.append(one)
        elif not file.optional:
            missing.append((file, one))
    if missing:
        raise WeightsMissingError(missing_text(missing, given))
    return found


def together(*finders: Callable[[], object]) -> None:
    """Call each of `finders`, so that whatever they miss is told at once.

    Raises:
        WeightsMissingError: one error for all that are missing.
    """
    missing: list[str] = []
    for find in finders:
        try:
            find()
        except WeightsMissingError as error:
            missing.append(str(error))
    if missing:
        raise WeightsMissingError("; ".join(missing))


def locate_any(file: WeightsFile, given: str | None = None) -> FoundWeights | None:
    """Find a file, or the one that serves as well, without asking the network.

    Raises:
        WeightsUnusableError: it is there and cannot be read.
    """
    return next((found for choice in _choices(file) if (found := locate(choice, given))), None)


def _choices(file: WeightsFile) -> list[WeightsFile]:
    return [file] if file.or_else is None else [file, replace(file, filename=file.or_else, sha256=None)]


def _find(file: WeightsFile, given: str | None, *, download: bool) -> FoundWeights | str | None:
    """The file, or why the hub did not give it; None where the hub was not asked."""
    found = locate_any(file, given)
    if found is not None:
        return _published(found)
    if given is not None or not download or is_offline():
        return None
    refused: str | None = None
    for choice in _choices(file):
        answer = _download(choice)
        if isinstance(answer, FoundWeights):
            return answer
        refused = refused or answer
    return refused


def locate(file: WeightsFile, given: str | None = None) -> FoundWeights | None:
    """Find a file without asking the network; None where it is not on this machine.

    Raises:
        WeightsUnusableError: it is there and cannot be read.
    """
    for path, origin in _places(file, given):
        if path.is_file():
            return _found(file, path, origin)
    return None if given is not None else _cached(file)


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids asking the hub."""
    from huggingface_hub import constants

    value = os.environ.get("HF_HUB_OFFLINE", "")
    return bool(constants.HF_HUB_OFFLINE) or value.upper() in {"1", "ON", "YES", "TRUE"}


def missing_text(missing: Sequence[tuple[WeightsFile, str | None]], given: str | None = None) -> str:
    """What to say of files that are not there; the second of each pair is why the hub did not give it, if asked."""
    if given is not None:
        return f"weights: {given} does not have {', '.join(file.filename for file, _ in missing)}"
    by_page: dict[str, list[str]] = {}
    for file, why in missing:
        by_page.setdefault(_page(file), []).append(f"{file.filename} ({why})" if why else file.filename)
    names = "; ".join(f"{', '.join(files)} of {page}" for page, files in by_page.items())
    folder = os.environ.get(FOLDER_VARIABLE)
    example = missing[0][0]
    place = f"{folder or 'FOLDER'}/{example.filename if example.unique_name else example}"
    setting = "" if folder else f" and set {FOLDER_VARIABLE}=FOLDER"
    offline = ", HF_HUB_OFFLINE is set" if is_offline() else ""
    return (
        f"weights: not on this machine{offline}: {names}; put {'it' if len(missing) == 1 else 'each'} at {place}"
        f"{setting}, or run `controlmill weights fetch` where there is a network"
    )


def _page(file: WeightsFile) -> str:
    at = "" if file.revision == "main" else f" at {file.revision[:12]}"
    return f"https://huggingface.co/{file.repository}{at}"


def _places(file: WeightsFile, given: str | None) -> Iterator[tuple[Path, Origin]]:
    if given is not None:
        path = Path(given).expanduser()
        yield path, "given"
        yield from ((place, "given") for place in _in_folder(file, path))
        # a folder that was named for one model holds its files under their bare names
        yield path / file.filename, "given"
        return
    for folder in filter(None, os.environ.get(FOLDER_VARIABLE, "").split(os.pathsep)):
        yield from ((place, "folder") for place in _in_folder(file, Path(folder).expanduser()))


def _in_folder(file: WeightsFile, folder: Path) -> Iterator[Path]:
    yield folder / file.repository / file.filename
    yield folder / file.repository.rpartition("/")[2] / file.filename
    if file.unique_name:
        yield folder / file.filename
        yield folder / Path(file.filename).name


def _cached(file: WeightsFile) -> FoundWeights | None:
    from huggingface_hub import try_to_load_from_cache

    damaged: FoundWeights | None = None
    # whoever used the hub's branch has the file under the commit that the branch had: as good where the hash is known
    for revision in dict.fromkeys((file.revision, "main")):
        path = try_to_load_from_cache(file.repository, file.filename, revision=revision)
        if not isinstance(path, str):
            continue
        found = _found(file, Path(path), "cache")
        is_pinned = revision == file.revision
        if found.sha256 == file.sha256 or (is_pinned and file.sha256 is None):
            return found
        damaged = found if is_pinned else damaged
    return damaged


def _download(file: WeightsFile) -> FoundWeights | str:
    """The file from the hub, or why it could not be had."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    endpoint: Any = os.environ.get("HF_ENDPOINT")
    try:
        path = hf_hub_download(file.repository, file.filename, revision=file.revision, endpoint=endpoint)
    except LocalEntryNotFoundError as error:
        # the cause says what the network did; the error itself only that there is no network
        return one_line(error.__cause__ or error)
    except (HfHubHTTPError, OSError, ValueError) as error:
        return one_line(error)
    return _published(_found(file, Path(path), "hub"))


def _published(found: FoundWeights) -> FoundWeights:
    """What was found, unless it is of the hub and not what was published there; a user's own file may be any.

    Raises:
        WeightsUnusableError: it is damaged, or the hub gives something else by now.
    """
    file = found.file
    if found.origin in ("cache", "hub") and file.sha256 and found.sha256 != file.sha256:
        given = f"what the hub gave as {file}" if found.origin == "hub" else str(found.path)
        raise WeightsUnusableError(
            # what a link of the cache points to: with only the link gone, the same bytes would be linked again
            f"weights: {given} has SHA-256 {found.sha256}, not {file.sha256} as published; delete "
            f"{found.path.resolve()} and try again"
        )
    return found


def _found(file: WeightsFile, path: Path, origin: Origin) -> FoundWeights:
    try:
        sha256 = sha256_of(path)
    except OSError as error:
        raise WeightsUnusableError(f"weights: cannot read {path}: {error.strerror}") from error
    # .../snapshots/<commit>/<file>, whose file is a link into .../blobs
    parts = path.parts
    commit = parts[parts.index("snapshots") + 1] if origin in ("cache", "hub") and "snapshots" in parts else None
    if commit is None and sha256 == file.sha256 and _COMMIT.fullmatch(file.revision):
        # wherever it came from: its bytes are those of that commit
        commit = file.revision
    return FoundWeights(file, path, sha256, origin, commit)
