"""The columns that every source is brought to, and errors that name the file."""

import csv
import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa

from controlmill.config.source import SourceOptions
from controlmill.errors import SourceMissingError, StorageError
from storage.filesystem import one_line
from storage.schema import source_schema

ROWS_PER_BATCH = 16_384
"""Rows that a reader hands on at once; what is in memory while planning is some of these and one shard."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a source that are read."""

    url: str
    caption: str | None = None
    expected_hash: str | None = None
    extra: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: SourceOptions) -> "Columns":
        """The columns that the options name."""
        expected_hash = config.verify_hash[0] if config.verify_hash else None
        return cls(config.url_col, config.caption_col, expected_hash, tuple(config.save_additional_columns))

    @property
    def names(self) -> list[str]:
        """Each column to read, once."""
        wanted = (self.url, self.caption, self.expected_hash, *self.extra)
        return list(dict.fromkeys(name for name in wanted if name is not None))

    def check(self, available: Sequence[str], where: str) -> None:
        """Raise `SourceMissingError` naming the columns that there are, if one of ours is missing."""
        for name in self.names:
            if name not in available:
                there = ", ".join(available) or "none"
                raise SourceMissingError(f"{where} has no column {name!r}; it has: {there}")


def stored_type(found: pa.DataType) -> pa.DataType:
    """The type that an additional column is stored as: dictionaries as their values, all kinds of text as string."""
    if pa.types.is_dictionary(found):
        return stored_type(found.value_type)
    if pa.types.is_null(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found):
        return pa.string()
    return found


def row_batch(columns: dict[str, pa.Array], num_rows: int, schema: pa.Schema, where: str) -> pa.RecordBatch:
    """A batch of a source: the given columns, cast to the types of `schema`, the others null, and no key yet.

    Raises:
        SourceMissingError: a column holds what its type cannot.
    """
    arrays = []
    fields = [field for field in schema if field.name != "key"]
    for field in fields:
        array = columns.get(field.name)
        if array is None:
            arrays.append(pa.nulls(num_rows, field.type))
            continue
        try:
            arrays.append(array if array.type == field.type else array.cast(field.type))
        except pa.ArrowException as error:
            raise SourceMissingError(
                f"{where}: column {field.name!r} holds {array.type}, {field.type} is needed: {one_line(error)}"
            ) from error
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def projected(batch: pa.RecordBatch, columns: Columns, schema: pa.Schema, where: str) -> pa.RecordBatch:
    """The rows of a table in the columns of a source."""
    found = {"url": batch.column(columns.url)}
    if columns.caption is not None:
        found["caption"] = batch.column(columns.caption)
    if columns.expected_hash is not None:
        found["expected_hash"] = batch.column(columns.expected_hash)
    for name in columns.extra:
        found[name] = batch.column(name)
    return row_batch(found, batch.num_rows, schema, where)


def schema_of(columns: Columns, found: pa.Schema) -> pa.Schema:
    """The schema of source shards made from a table."""
    return source_schema([pa.field(name, stored_type(found.field(name).type)) for name in columns.extra])


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Turn what a reader raises into `SourceMissingError` naming the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise SourceMissingError(f"{where}: there is no such file or folder") from error
    except StorageError as error:
        raise SourceMissingError(str(error)) from error
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise SourceMissingError(f"{where}: cannot be read: {one_line(error)}") from error


@contextmanager
def on_disk(file: BinaryIO) -> Iterator[str]:
    """The path of a file: its own where it is local, else that of a copy which goes with the `with` block."""
    if isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO):
        yield str(file.name)
        return
    with tempfile.NamedTemporaryFile(prefix="controlmill-") as copy:
        file.seek(0)
        shutil.copyfileobj(file, copy, 1024 * 1024)
        copy.flush()
        yield copy.name
