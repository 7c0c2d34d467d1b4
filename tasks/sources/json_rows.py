"""Rows of JSON: one object per line, or one array of objects, never wholly in memory."""

import gzip
import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import ijson
import pyarrow as pa

from controlmill.errors import SourceMissingError
from tasks.sources.rows import ROWS_PER_BATCH, Columns, naming, row_batch, schema_of

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class _Batch:
    """Objects that follow each other in a file."""

    where: str
    what: str
    numbers: list[int]
    objects: list[dict[str, Any]]

    def place(self, index: int) -> str:
        """Where an object is, for a person."""
        return f"{self.where}, {self.what} {self.numbers[index]}"

    def names(self) -> list[str]:
        """All keys, in the order in which they first come."""
        return list(dict.fromkeys(itertools.chain.from_iterable(self.objects)))

    def values(self, name: str) -> list[Any]:
        """One column."""
        return [values.get(name) for values in self.objects]


class JsonRows:
    """A file of JSON objects; nested values of additional columns are kept as JSON text."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def schema(self, file: BinaryIO, where: str) -> pa.Schema:
        """The schema of source shards, from the first rows; raises SourceMissingError where a column is in none."""
        batch = next(_iter_batches(file, where), _Batch(where, "object", [], []))
        if batch.objects:
            self._columns.check(batch.names(), where)
        return schema_of(
            self._columns, pa.schema([pa.field(name, _type_of(batch.values(name))) for name in self._columns.names])
        )

    def iter_rows(self, file: BinaryIO, schema: pa.Schema, where: str) -> Iterator[pa.RecordBatch]:
        """Yield the rows; a key that an object lacks is null."""
        for index, batch in enumerate(_iter_batches(file, where)):
            if index == 0:
                self._columns.check(batch.names(), where)
            found = {"url": _column(batch, self._columns.url, pa.string())}
            if self._columns.caption is not None:
                found["caption"] = _column(batch, self._columns.caption, pa.string())
            if self._columns.expected_hash is not None:
                found["expected_hash"] = _column(batch, self._columns.expected_hash, pa.string())
            for name in self._columns.extra:
                found[name] = _column(batch, name, schema.field(name).type)
            yield row_batch(found, len(batch.objects), schema, where)


def _iter_batches(file: BinaryIO, where: str) -> Iterator[_Batch]:
    with naming(where):
        file.seek(0)
        start = file.read(4096).removeprefix(_BOM).lstrip()
        file.seek(0)
    yield from (_iter_array(file, where) if start.startswith(b"[") else _iter_lines(file, where))


def _iter_lines(file: BinaryIO, where: str) -> Iterator[_Batch]:
    first = 1
    # lines of a remote file are cut in Python, unless something buffers it
    buffered: Any = (
        file if isinstance(file, io.BufferedReader | gzip.GzipFile) else io.BufferedReader(cast("Any", file))
    )
    while True:
        with naming(where):
            lines = list(itertools.islice(buffered, ROWS_PER_BATCH))
        if not lines:
            return
        if first == 1:
            lines[0] = lines[0].removeprefix(_BOM)
        numbers = [number for number, line in enumerate(lines, first) if line and not line.isspace()]
        batch = _Batch(where, "line", numbers, [])
        for index, number in enumerate(numbers):
            try:
                value = json.loads(lines[number - first].decode())
            except ValueError as error:  # bad JSON and bad UTF-8 alike
                raise SourceMissingError(f"{batch.place(index)}: not valid JSON: {error}") from error
            batch.objects.append(_object(value, batch, index))
        first += len(lines)
        if numbers:
            yield batch


def _iter_array(file: BinaryIO, where: str) -> Iterator[_Batch]:
    file.seek(len(_BOM) if file.read(len(_BOM)) == _BOM else 0)
    items: Iterator[Any] = ijson.items(file, "item", use_float=True)
    for first in itertools.count(1, ROWS_PER_BATCH):
        batch = _Batch(where, "object", list(range(first, first + ROWS_PER_BATCH)), [])
        try:
            with naming(where):
                for index, value in enumerate(itertools.islice(items, ROWS_PER_BATCH)):
                    batch.objects.append(_object(value, batch, index))
        except ijson.JSONError as error:
            what = f"not valid JSON: {' '.join(str(error).split())}"
            raise SourceMissingError(f"{batch.place(len(batch.objects))}: {what}") from error
        if batch.objects:
            yield batch
        if len(batch.objects) < ROWS_PER_BATCH:
            return


def _object(value: Any, batch: _Batch, index: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise SourceMissingError(f"{batch.place(index)}: expected an object with a key per column, got a {kind}")
    return value


def _type_of(values: list[Any]) -> pa.DataType:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    if kinds and kinds <= {int, float}:
        return pa.float64()
    return pa.string()


_ACCEPTED: dict[str, set[type]] = {"bool": {bool}, "int64": {int}, "double": {int, float}}


def _column(batch: _Batch, name: str, kind: pa.DataType) -> pa.Array:
    values = batch.values(name)
    if pa.types.is_string(kind):
        if not {type(value) for value in values} <= {str, type(None)}:
            values = [_text(value) for value in values]
        return _array(values, kind, batch, name)
    accepted = _ACCEPTED.get(str(kind), set()) | {type(None)}
    for index, value in enumerate(values):
        if type(value) not in accepted:
            raise SourceMissingError(f"{batch.place(index)}: {name!r} is {value!r}, and {kind} in the rows before")
    return _array(values, kind, batch, name)


def _array(values: list[Any], kind: pa.DataType, batch: _Batch, name: str) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
        # half of a surrogate pair, or a whole number of more than 64 bits
        where = f"{batch.place(0)} and those after it"
        raise SourceMissingError(f"{where}: {name!r} cannot be kept as {kind}: {error}") from error


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
