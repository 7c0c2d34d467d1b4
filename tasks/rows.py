"""The two records that a shard's work speaks: a planned row, and the finished row with its image and maps."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from controlmill.reasons import SUCCESS, Reason, RowFailure, img2dataset_status
from storage.layer import Layer


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row of the `source` layer."""

    key: str
    url: str
    caption: str | None
    location: str | None
    """Where the bytes are, for rows that are not pulled over HTTP."""
    expected_hash: str | None
    extra: Mapping[str, Any]
    """The additional columns of the source."""


@dataclass(frozen=True, slots=True)
class Map:
    """What an annotator made of one image: encoded, or the reason why there is none."""

    encoded: bytes | None
    columns: Mapping[str, Any]
    reason: Reason | None = None
    message: str = ""
    """What failed, where there is a reason."""


@dataclass(frozen=True, slots=True)
class FinishedRow:
    """A row with its image, ready to be written."""

    row: SourceRow
    encoded: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    exif: str | None
    digest: str | None
    maps: Mapping[str, Map]


_USERINFO = re.compile(r"^([^:/?#]+://)[^/?#\s]*@")
_KNOWN = ("key", "url", "caption", "location", "expected_hash", "retry_of")


def source_rows(source: Layer, shard: int) -> Iterator[SourceRow]:
    """The planned rows of a shard, in order, streamed."""
    for batch in source.iter_batches(shard):
        for values in batch.to_pylist():
            extra = {name: value for name, value in values.items() if name not in _KNOWN}
            yield SourceRow(
                values["key"],
                values["url"] or "",
                values["caption"],
                values["location"],
                values["expected_hash"],
                extra,
            )


def image_batch(rows: list[FinishedRow], schema: pa.Schema, suffix: str, hash_column: str | None) -> pa.RecordBatch:
    """Rows of the image layer in the order of `schema`; `suffix` is the file name ending of the stored images."""
    return pa.RecordBatch.from_pylist(
        [
            {
                **finished.row.extra,
                "key": finished.row.key,
                "url": without_credentials(finished.row.url),
                "caption": finished.row.caption,
                "status": SUCCESS,
                "error_message": None,
                "width": finished.width,
                "height": finished.height,
                "original_width": finished.original_width,
                "original_height": finished.original_height,
                "exif": finished.exif,
                **({hash_column: finished.digest} if hash_column else {}),
                "image": {"bytes": finished.encoded, "path": f"{finished.row.key}.{suffix}"},
            }
            for finished in rows
        ],
        schema,
    )


def map_batch(keys: list[str], maps: list[Map], schema: pa.Schema) -> pa.RecordBatch:
    """Rows of an annotator's layer in the order of `schema`; a row without a map has null there and its reason."""
    return pa.RecordBatch.from_pylist(
        [
            {
                **made.columns,
                "key": key,
                "reason": made.reason,
                "conditioning_image": None if made.encoded is None else {"bytes": made.encoded, "path": f"{key}.png"},
            }
            for key, made in zip(keys, maps, strict=True)
        ],
        schema,
    )


def failure_batch(failed: list[tuple[SourceRow, RowFailure]], schema: pa.Schema) -> pa.RecordBatch:
    """Rows of the failures file in the order of `schema`."""
    return pa.RecordBatch.from_pylist(
        [
            {
                **row.extra,
                "key": row.key,
                "url": without_credentials(row.url),
                "caption": row.caption,
                "status": img2dataset_status(failure.reason),
                "reason": failure.reason,
                "error_message": failure.message,
                "http_status": failure.http_status,
                "attempts": failure.attempts,
                "host": host_of(row.url),
            }
            for row, failure in failed
        ],
        schema,
    )


def host_of(url: str) -> str | None:
    """The host of a URL without credentials and port, for counting failures by host."""
    from urllib.parse import urlsplit

    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def without_credentials(url: str) -> str:
    """A URL as layers hold it: without user name and password, which only the planned row keeps, to pull by."""
    return _USERINFO.sub(r"\1", url)
