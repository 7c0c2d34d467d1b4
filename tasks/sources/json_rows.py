"""Rows of JSON: one object per line, or one array of objects, never wholly in memory."""

import itertools
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import ijson
import pyarrow as pa

from controlmill.errors import SourceMissingError
from tasks.sources.rows import ROWS_PER_BATCH, Columns, naming, row_batch, schema_of


class _Row(NamedTuple):
    place: str
    values: dict[str, Any]


class JsonRows:
    """A file of JSON objects; nested values of additional columns are kept as JSON text."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def schema(self, file: BinaryIO, where: str) -> pa.Schema:
        """The schema of source shards, from the first rows; raises SourceMissingError where a column is in none."""
        rows = list(itertools.islice(_iter_objects(file, where), ROWS_PER_BATCH))
        if rows:
            self._columns.check(list(dict.fromkeys(name for row in rows for name in row.values)), where)
        fields = [pa.field(name, _type_of([row.values.get(name) for row in rows])) for name in self._columns.names]
        return schema_of(self._columns, pa.schema(fields))

    def iter_rows(self, file: BinaryIO, schema: pa.Schema, where: str) -> Iterator[pa.RecordBatch]:
        """Yield the rows; a key that an object lacks is null."""
        objects = _iter_objects(file, where)
        first = True
        while rows := list(itertools.islice(objects, ROWS_PER_BATCH)):
            if first:
                self._columns.check(list(dict.fromkeys(name for row in rows for name in row.values)), where)
                first = False
            found = {"url": _column(rows, self._columns.url, pa.string())}
            if self._columns.caption is not None:
                found["caption"] = _column(rows, self._columns.caption, pa.string())
            if self._columns.expected_hash is not None:
                found["expected_hash"] = _column(rows, self._columns.expected_hash, pa.string())
            for name in self._columns.extra:
                found[name] = _column(rows, name, schema.field(name).type)
            yield row_batch(found, len(rows), schema, where)


def _iter_objects(file: BinaryIO, where: str) -> Iterator[_Row]:
    file.seek(0)
    with naming(where):
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        file.seek(0)
    yield from (_iter_array(file, where) if start.startswith(b"[") else _iter_lines(file, where))


def _iter_lines(file: BinaryIO, where: str) -> Iterator[_Row]:
    lines = iter(file)
    for number in itertools.count(1):
        with naming(where):
            line = next(lines, None)
        if line is None:
            return
        place = f"{where}, line {number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            value = json.loads(text) if text else None
        except ValueError as error:  # bad JSON and bad UTF-8 alike
            raise SourceMissingError(f"{place}: not valid JSON: {error}") from error
        if text:
            yield _row(value, place)


def _iter_array(file: BinaryIO, where: str) -> Iterator[_Row]:
    first = file.read(3)
    file.seek(3 if first == b"\xef\xbb\xbf" else 0)
    items: Iterator[Any] = ijson.items(file, "item", use_float=True)
    for number in itertools.count(1):
        place = f"{where}, object {number}"
        try:
            with naming(where):
                value = next(items)
        except StopIteration:
            return
        except ijson.JSONError as error:
            raise SourceMissingError(f"{place}: not valid JSON: {' '.join(str(error).split())}") from error
        yield _row(value, place)


def _row(value: Any, place: str) -> _Row:
    if not isinstance(value, dict):
        raise SourceMissingError(f"{place}: expected an object with a column per key, got a {type(value).__name__}")
    return _Row(place, value)


def _type_of(values: list[Any]) -> pa.DataType:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    if kinds and kinds <= {int, float}:
        return pa.float64()
    return pa.string()


def _column(rows: list[_Row], name: str, kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        return pa.array([_text(row.values.get(name)) for row in rows], kind)
    accepted: tuple[type, ...] = {"bool": (bool,), "int64": (int,), "double": (int, float)}.get(str(kind), ())
    values = []
    for row in rows:
        value = row.values.get(name)
        fits = isinstance(value, accepted) and (bool in accepted or not isinstance(value, bool))
        if value is not None and not fits:
            raise SourceMissingError(f"{row.place}: {name!r} is {value!r}, and {kind} in the rows before")
        values.append(value)
    return pa.array(values, kind)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
