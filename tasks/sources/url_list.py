"""A list of URLs: a file, or a folder of files of one format, on any file system, each perhaps gzipped."""

import gzip
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import BinaryIO, Protocol, cast

import pyarrow as pa
import pyarrow.parquet as pq

from controlmill.config.source import SourceOptions
from controlmill.errors import SourceMissingError
from storage.description import SourceFile
from storage.filesystem import Entry, open_files, redact
from storage.parquet import open_parquet
from storage.schema import source_schema
from tasks.sources.json_rows import JsonRows
from tasks.sources.rows import ROWS_PER_BATCH, Columns, naming, on_disk, projected, schema_of
from tasks.sources.text import Table, iter_lines

FORMATS = ("txt", "csv", "tsv", "json", "jsonl", "parquet")
_GZIP_MAGIC = b"\x1f\x8b"


class RowReader(Protocol):
    """Reads one format; `file` is seekable and already unzipped."""

    def schema(self, file: BinaryIO, where: str) -> pa.Schema:
        """Return the schema of source shards."""

    def iter_rows(self, file: BinaryIO, schema: pa.Schema, where: str) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the columns of the schema, without keys."""


class UrlList:
    """The files of a list of URLs, as a `tasks.sources.files.FileSource` reads them."""

    def __init__(self, config: SourceOptions) -> None:
        uri = config.url_list or ""
        self.label = redact(uri)
        self._columns = Columns.of(config)
        self._input_format = config.input_format
        with naming(self.label):
            self._files, self._root = open_files(uri)
        self._paths: dict[str, str] = {}

    def files(self) -> list[SourceFile]:
        """The files, sorted by name.

        Raises:
            SourceMissingError: there is none, or their formats differ.
        """
        with naming(self.label):
            entry = self._files.stat(self._root)
        if entry is None:
            raise SourceMissingError(f"{self.label}: there is no such file or folder")
        if not entry.is_folder:
            _format_of(entry.name, self._input_format, self.label)
            self._paths = {entry.name: self._root}
            return [_source_file(entry)]
        found = self._in_folder()
        self._paths = {item.name: f"{self._root}/{item.name}" for item in found}
        return [_source_file(item) for item in found]

    def schema(self, name: str) -> pa.Schema:
        """The schema of source shards made from this file."""
        where = self._where(name)
        with self._open(name) as file:
            return self._reader(name).schema(file, where)

    def iter_rows(self, name: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a file in the columns of `schema`, without keys."""
        with self._open(name) as file:
            yield from self._reader(name).iter_rows(file, schema, self._where(name))

    def _in_folder(self) -> list[Entry]:
        with naming(self.label):
            entries = [entry for entry in self._files.entries(self._root) if not entry.is_folder]
        by_format: dict[str, list[Entry]] = {}
        for entry in entries:
            kind = None if entry.name.startswith((".", "_")) else _suffix_format(entry.name)
            if kind is not None and self._input_format in {None, kind}:
                by_format.setdefault(kind, []).append(entry)
        if not by_format:
            wanted = self._input_format or "txt, csv, tsv, json, jsonl or parquet"
            raise SourceMissingError(f"{self.label}: there is no {wanted} file in this folder")
        if len(by_format) > 1:
            raise SourceMissingError(
                f"{self.label}: this folder holds files of several formats ({', '.join(sorted(by_format))}): "
                "choose one with input_format"
            )
        return next(iter(by_format.values()))

    def _where(self, name: str) -> str:
        return self.label if self._paths[name] == self._root else f"{self.label}/{name}"

    def _reader(self, name: str) -> RowReader:
        kind = _format_of(name, self._input_format, self._where(name)).removesuffix(".gz")
        if kind == "txt":
            return _Lines(self._columns)
        if kind in {"csv", "tsv"}:
            return Table("," if kind == "csv" else "\t", self._columns)
        return ParquetRows(self._columns) if kind == "parquet" else JsonRows(self._columns)

    @contextmanager
    def _open(self, name: str) -> Iterator[BinaryIO]:
        with naming(self._where(name)):
            file = self._files.open(self._paths[name])
        with closing(file):
            with naming(self._where(name)):
                zipped = file.read(2) == _GZIP_MAGIC
                file.seek(0)
            if not zipped:
                yield file
                return
            with gzip.open(file) as unzipped:
                yield cast("BinaryIO", unzipped)


class _Lines:
    """One URL per line."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def schema(self, file: BinaryIO, where: str) -> pa.Schema:
        """The schema of source shards: a list of lines has no column but the URL."""
        del file
        self._columns.check([self._columns.url], where)
        return source_schema()

    def iter_rows(self, file: BinaryIO, schema: pa.Schema, where: str) -> Iterator[pa.RecordBatch]:
        """Yield the lines."""
        return iter_lines(file, schema, where)


class ParquetRows:
    """A Parquet file, of which only the wanted columns are read."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def schema(self, file: BinaryIO, where: str) -> pa.Schema:
        """The schema of source shards."""
        with self._parquet(file, where) as parquet:
            self._columns.check(parquet.schema_arrow.names, where)
            return schema_of(self._columns, parquet.schema_arrow)

    def iter_rows(self, file: BinaryIO, schema: pa.Schema, where: str) -> Iterator[pa.RecordBatch]:
        """Yield the rows."""
        with self._parquet(file, where) as parquet:
            self._columns.check(parquet.schema_arrow.names, where)
            batches = parquet.iter_batches(batch_size=ROWS_PER_BATCH, columns=self._columns.names)
            while True:
                with naming(where):
                    batch = next(batches, None)
                if batch is None:
                    return
                yield projected(batch, self._columns, schema, where)

    @contextmanager
    def _parquet(self, file: BinaryIO, where: str) -> Iterator[pq.ParquetFile]:
        opened: object = file
        with ExitStack() as stack:
            with naming(where):
                # its footer is at the end, so a gzipped one is unzipped to the disk
                zipped = isinstance(opened, gzip.GzipFile)
                parquet = open_parquet(stack.enter_context(on_disk(file)) if zipped else file)
            yield parquet


def _source_file(entry: Entry) -> SourceFile:
    return SourceFile(name=entry.name, size=entry.size, modified=entry.modified)


def _suffix_format(name: str) -> str | None:
    stem = name.lower()
    zipped = stem.endswith(".gz")
    suffix = stem.removesuffix(".gz").rpartition(".")[2]
    kind = {"ndjson": "jsonl", "text": "txt"}.get(suffix, suffix)
    if kind not in FORMATS:
        return None
    return f"{kind}.gz" if zipped else kind


def _format_of(name: str, given: str | None, where: str) -> str:
    kind = given or _suffix_format(name)
    if kind is None:
        raise SourceMissingError(f"{where}: its format is not told by its name: give input_format")
    return kind
