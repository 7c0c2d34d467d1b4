"""What is on this machine of a list of weights, and whether it is what was published."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from storage.weights.digest import sha256_of
from storage.weights.reference import FoundWeights, WeightsFile
from storage.weights.resolve import locate_any

Verdict = Literal["published", "another", "unknown", "missing"]


@dataclass(frozen=True, slots=True)
class Verified:
    """One file, after its bytes were read."""

    file: WeightsFile
    found: FoundWeights | None
    verdict: Verdict
    """Whether it is the published file, another one, one whose hash is not known, or not there."""


def find(files: Sequence[WeightsFile]) -> list[tuple[WeightsFile, FoundWeights | None]]:
    """Where each file is on this machine; the network is not asked."""
    return [(file, locate_any(file)) for file in files]


def verify(file: WeightsFile) -> Verified:
    """Read the file that would be used and compare it with the published one.

    Raises:
        OSError: it cannot be read.
    """
    found = locate_any(file)
    if found is None:
        return Verified(file, None, "missing")
    sha256 = sha256_of(found.path, anew=True)
    if found.file.sha256 is not None:
        is_published = sha256 == found.file.sha256
    elif found.origin == "cache" and len(blob := found.path.resolve().name) in (40, 64):
        # the cache calls a file by what the hub said that it hashes to: large ones SHA-256, small ones as git does
        is_published = blob == (sha256 if len(blob) == 64 else _git_hash(found.path))
    else:
        return Verified(file, found, "unknown")
    return Verified(file, found, "published" if is_published else "another")


def _git_hash(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()
