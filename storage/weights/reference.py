"""What a file of weights is called, before and after it has been found."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

FOLDER_VARIABLE: Final = "CONTROLMILL_WEIGHTS"
"""Environment variable: the folders that weights are looked for in."""
Origin = Literal["given", "folder", "cache", "hub"]
"""Found where an option said, in $CONTROLMILL_WEIGHTS, in the Hugging Face cache, or downloaded just now."""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One file of a repository on the Hugging Face hub."""

    repository: str
    """As `owner/name`."""
    filename: str
    """Path inside of the repository."""
    revision: str = "main"
    """The commit it is taken from; a branch or tag where no commit is known."""
    sha256: str | None = None
    """What the published file hashes to, hex, where known."""
    unique_name: bool = True
    """Whether the name alone says which file it is: `ControlNetHED.pth` does, `config.json` does not."""
    or_else: str | None = None
    """Another file of the repository that serves as well, for where it has only that: a `.bin` for a `.safetensors`."""
    optional: bool = False
    """Whether the repository may lack it."""

    def __str__(self) -> str:
        return f"{self.repository}/{self.filename}"


@dataclass(frozen=True, slots=True)
class FoundWeights:
    """A file of weights on this machine."""

    file: WeightsFile
    path: Path
    sha256: str
    """Of the bytes that are there, hex."""
    origin: Origin
    commit: str | None = None
    """Commit of the repository that it is of: where it comes from the cache or the hub, or is the published file."""
