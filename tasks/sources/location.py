"""Where the bytes of a local image are: one line of JSON in the `location` column."""

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Location:
    """A file; or a piece of a file (a tar member); or one value of a Parquet column. `path` may be an fsspec URI."""

    path: str
    offset: int | None = None
    size: int | None = None
    row: int | None = None
    column: str | None = None

    def to_text(self) -> str:
        """The value of the `location` column."""
        fields = ("path", "offset", "size", "row", "column")
        values = {name: getattr(self, name) for name in fields if getattr(self, name) is not None}
        return json.dumps(values, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> "Location":
        """Read it back."""
        return cls(**json.loads(text))
