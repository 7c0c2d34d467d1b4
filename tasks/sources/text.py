"""Rows of text files: one URL per line, and comma or tab separated tables. Columnar from the first byte."""

import csv
import io
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from tasks.sources.rows import Columns, naming, on_disk, projected, row_batch, schema_of

_BLOCK_BYTES = 4 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


def iter_lines(file: BinaryIO, schema: pa.Schema, where: str) -> Iterator[pa.RecordBatch]:
    """Yield the lines of a text file as URLs: blank lines skipped, space around a line cut, bad UTF-8 replaced."""
    rest = b""
    first = True
    while True:
        with naming(where):
            block = file.read(_BLOCK_BYTES)
        if first:
            block, first = block.removeprefix(_BOM), False
        text = rest + block
        cut = text.rfind(b"\n") + 1 if block else len(text)
        text, rest = text[:cut], text[cut:]
        urls = _lines(text)
        if len(urls):
            yield row_batch({"url": urls}, len(urls), schema, where)
        if not block:
            return


def _lines(text: bytes) -> pa.Array:
    if text and not text.endswith(b"\n"):
        text += b"\n"
    ends = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord("\n")).astype(np.int32) + 1
    offsets = np.concatenate([np.zeros(1, dtype=np.int32), ends])
    array = pa.Array.from_buffers(pa.binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(text)])
    try:
        lines = array.cast(pa.string())
    except pa.ArrowInvalid:  # not UTF-8: the row stays, and fails as an invalid URL
        lines = pa.array([line.decode(errors="replace") for line in text.split(b"\n")[:-1]], pa.string())
    lines = pc.utf8_trim_whitespace(lines)
    return lines.filter(pc.not_equal(pc.binary_length(lines), 0))


class Table:
    """A comma or tab separated file with a header; every column is text, an empty field without quotes is null."""

    def __init__(self, delimiter: str, columns: Columns) -> None:
        self._parse = arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        self._columns = columns

    def schema(self, file: BinaryIO, where: str) -> pa.Schema:
        """The schema of source shards; raises SourceMissingError where a column is not in the header."""
        self._check_header(file, where)
        return schema_of(self._columns, pa.schema([pa.field(name, pa.string()) for name in self._columns.names]))

    def iter_rows(self, file: BinaryIO, schema: pa.Schema, where: str) -> Iterator[pa.RecordBatch]:
        """Yield the rows; `file` is at its beginning."""
        if not self._check_header(file, where):
            return
        names = self._columns.names
        convert = arrow_csv.ConvertOptions(
            include_columns=names,
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        read = arrow_csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False)
        # Arrow reads ahead in a thread of its own. From a file of Python's it would do so in Python, and a process that
        # ends meanwhile is aborted: "terminate called without an active exception".
        with naming(where), on_disk(file) as path, pa.OSFile(path) as native:
            reader = arrow_csv.open_csv(native, read_options=read, parse_options=self._parse, convert_options=convert)
            for batch in reader:
                yield projected(batch, self._columns, schema, where)

    def _check_header(self, file: BinaryIO, where: str) -> bool:
        """Whether there is anything in the file; if so, the header has all columns."""
        with naming(where):
            block = file.read(_BLOCK_BYTES)
            if b"\n" not in block:  # nothing, or a header and no row
                return False
            text = io.TextIOWrapper(io.BytesIO(block), encoding="utf-8-sig", newline="")
            lines = csv.reader(text, delimiter=self._parse.delimiter)
            names = next((line for line in lines if line), [])
        self._columns.check(names, where)
        return True
