"""The commit record of one shard of one layer: the only truth about what is done."""

import sys
from dataclasses import dataclass
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError


class LayerInput(BaseModel):
    """The shard of another layer that a shard was made from."""

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    sha256: str


class UnitDescription(BaseModel):
    """The unit that made a shard."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    name: str = ""
    version: str = ""
    config: dict[str, Any] = Field(default_factory=dict)


class CommitRecord(BaseModel):
    """`<layer>/<NNNNN>_stats.json`: what is in a Parquet file, how it was made and from what.

    The first group of keys is that of img2dataset, so that scripts which read its files read these. Keys that a newer
    controlmill writes are passed over.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings", use_attribute_docstrings=True)

    count: int = Field(ge=0)
    """Rows of the source shard."""
    successes: int = Field(ge=0)
    """Rows with a result."""
    failed_to_download: int = 0
    """Rows without an image because of address, permission or network."""
    failed_to_resize: int = 0
    """Rows without an image because of the picture."""
    duration: float = 0.0
    """Seconds."""
    start_time: float = 0.0
    """Seconds since the epoch."""
    end_time: float = 0.0
    """Seconds since the epoch."""
    status_dict: dict[str, int] = Field(default_factory=dict)
    """Rows by img2dataset's status and error message."""

    layer: str
    """Layer that the shard belongs to."""
    shard: int = Field(ge=0)
    """Number of the shard."""
    rows: int = Field(ge=0)
    """Rows in the Parquet file."""
    num_bytes: int = Field(ge=0, validation_alias=AliasChoices("bytes", "num_bytes"), serialization_alias="bytes")
    """Size of the Parquet file."""
    sha256: str
    """SHA-256 of the Parquet file, hex."""
    fingerprint: str
    """Fingerprint of unit, weights, configuration and input layers."""
    inputs: dict[str, LayerInput] = Field(default_factory=dict)
    """What it was made from, by layer."""
    reasons: dict[str, int] = Field(default_factory=dict)
    """Failed rows by reason."""
    hosts: dict[str, int] = Field(default_factory=dict)
    """Failed rows by host, the worst hosts only."""
    unit: UnitDescription = Field(default_factory=UnitDescription)
    """What made it."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of the libraries that decide about its bytes."""
    failures_sha256: str | None = None
    """SHA-256 of the shard's failures file, hex."""
    flags: dict[str, int] = Field(default_factory=dict)
    """Rows by flag column that is true."""

    def to_json(self) -> bytes:
        """The content of the file."""
        return self.model_dump_json(by_alias=True, indent=2).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> "CommitRecord | None":
        """A record, or None where the bytes are none: a foreign tool cut the file, and the shard is not committed."""
        try:
            return cls.model_validate_json(data)
        except ValidationError:
            return None


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """What resuming needs to know of a committed shard: 100,000 of them are a few dozen megabytes."""

    rows: int
    num_bytes: int
    fingerprint: str
    sha256: str

    @classmethod
    def of(cls, record: CommitRecord) -> "ShardStatus":
        """The status in a record."""
        return cls(record.rows, record.num_bytes, sys.intern(record.fingerprint), record.sha256)
