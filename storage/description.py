"""What `dataset.json` holds: the format, what the dataset is built with, and what was planned."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT_VERSION = 1


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings", use_attribute_docstrings=True)


class SourceFile(_Stored):
    """One file of a source as it was when its rows were planned."""

    name: str
    """Path relative to the source's folder; the file's name where the source is one file."""
    size: int
    """Bytes."""
    modified: str
    """What its file system changes with the content: mtime or ETag."""
    rows: int = 0
    """Rows planned from it."""
    digest: str = ""
    """Digest of these rows."""


class PlanEntry(_Stored):
    """One time that rows were planned."""

    kind: Literal["plan", "extend"]
    first_shard: int
    """First shard of it; the others follow without a gap."""
    num_shards: int = 0
    rows: int = 0
    complete: bool = False
    """Whether all of its shards are committed."""


class SourceDescription(_Stored):
    """Where the rows of a dataset came from."""

    options: dict[str, Any] = Field(default_factory=dict)
    """The source options that decide about rows and shards."""
    files: list[SourceFile] = Field(default_factory=list)
    """The files whose rows are planned, as of the last complete entry of the history."""
    history: list[PlanEntry] = Field(default_factory=list)
    """What was planned, in order. Retries are not here: their source shards say so themselves."""


class Description(_Stored):
    """The content of `dataset.json`."""

    format_version: int = FORMAT_VERSION
    options: dict[str, Any] = Field(default_factory=dict)
    """Options that the image layer and the annotators are built with."""
    source: SourceDescription | None = None
    """What was planned; None before the first plan."""
