"""What is on this machine of a list of weights, and whether it is what was published."""

from collections.abc import Sequence
from dataclasses import dataclass
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
    if found.file.sha256 is None:
        return Verified(file, found, "unknown")
    return Verified(file, found, "published" if sha256 == found.file.sha256 else "another")
