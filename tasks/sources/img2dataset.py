"""The output folder of img2dataset as a source: its images are adopted where they lie (files, webdataset, parquet)."""

import json
import re
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from controlmill.config.source import SourceOptions
from controlmill.errors import SourceMissingError
from controlmill.logs import warning
from storage.description import SourceFile
from storage.filesystem import Entry, open_files, redact
from storage.parquet import open_parquet
from tasks.sources.image_folder import IMAGE_SUFFIXES
from tasks.sources.location import Location
from tasks.sources.rows import ROWS_PER_BATCH, Columns, naming, projected, row_batch, schema_of, stored_type

_SHARD = re.compile(r"^(\d+)(\.tar|\.parquet|\.tfrecord|_stats\.json|)$")
_IMAGE_COLUMNS = ("jpg", "png", "webp")


class Img2dataset:
    """The finished shards of an img2dataset run, as `tasks.sources.files.FileSource` reads them.

    A shard is finished when its `_stats.json` is there. Rows that img2dataset marked as failed are left out: they have
    no image, and its own output says why.
    """

    def __init__(self, config: SourceOptions) -> None:
        uri = config.from_img2dataset or ""
        self.label = redact(uri)
        # img2dataset names these two itself
        self._columns = Columns("url", extra=tuple(config.save_additional_columns))
        with naming(self.label):
            self._files, self._root = open_files(uri)
        self._base = self._root if self._files.is_local else uri.rstrip("/")
        self._kinds: dict[str, dict[str, Entry]] = {}

    def files(self) -> list[SourceFile]:
        """One entry for each finished shard; raises SourceMissingError where there is none."""
        with naming(self.label):
            entries = self._files.entries(self._root)
        kinds: dict[str, dict[str, Entry]] = {}
        for entry in entries:
            match = _SHARD.match(entry.name)
            if match and entry.is_folder == (match[2] == ""):
                kinds.setdefault(match[1], {})[match[2] or "folder"] = entry
        if any(".tfrecord" in found for found in kinds.values()):
            raise SourceMissingError(f"{self.label}: tfrecord output is not read; files, webdataset and parquet are")
        with_images = {name: found for name, found in kinds.items() if found.keys() & {".tar", ".parquet", "folder"}}
        finished = {name: found for name, found in with_images.items() if "_stats.json" in found}
        if not finished:
            what = (
                "only unfinished shards (no _stats.json)"
                if with_images
                else "no shards (00000.tar, 00000.parquet, 00000/)"
            )
            raise SourceMissingError(f"{self.label}: no output of img2dataset: there are {what}")
        if len(finished) < len(with_images):
            unfinished = sorted(with_images.keys() - finished.keys())
            warning("img2dataset_shards_unfinished", folder=self.label, shards=unfinished[:20])
        self._kinds = finished
        return [_source_file(name, finished[name]) for name in sorted(finished, key=int)]

    def schema(self, name: str) -> pa.Schema:
        """The schema of source shards, from the metadata of one shard."""
        found = self._kinds[name]
        if ".parquet" in found:
            with naming(self._where(name)), self._files.open(f"{self._root}/{name}.parquet") as file:
                columns = open_parquet(file).schema_arrow
            self._columns.check(columns.names, self._where(name))
            return schema_of(self._columns, columns)
        first = next(self._iter_sidecars(name), None)
        values = first[1] if first else {}
        self._columns.check(list(values), self._where(name))
        kinds = [stored_type(pa.scalar(values[column]).type) for column in self._columns.names]
        return schema_of(self._columns, pa.schema(list(zip(self._columns.names, kinds, strict=True))))

    def iter_rows(self, name: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a shard that have an image, and where it is."""
        if ".parquet" not in self._kinds[name]:
            yield from self._iter_without_metadata(name, schema)
            return
        where = self._where(name)
        locate = self._locator(name)
        with naming(where), self._files.open(f"{self._root}/{name}.parquet") as file:
            parquet = open_parquet(file)
            names = parquet.schema_arrow.names
            self._columns.check(names, where)
            wanted = [*self._columns.names, *(extra for extra in ("key", "caption", "status") if extra in names)]
            image_column = next((column for column in _IMAGE_COLUMNS if column in names), None)
            first_row = 0
            for batch in parquet.iter_batches(batch_size=ROWS_PER_BATCH, columns=list(dict.fromkeys(wanted))):
                rows = batch.append_column("row", pa.array(range(first_row, first_row + batch.num_rows), pa.int64()))
                first_row += batch.num_rows
                if "status" in names:
                    rows = rows.filter(pc.equal(rows.column("status"), "success"))
                yield self._with_location(rows, schema, locate, image_column)

    def _with_location(
        self, rows: pa.RecordBatch, schema: pa.Schema, locate: "_Locator", image_column: str | None
    ) -> pa.RecordBatch:
        has_caption = "caption" in rows.schema.names
        columns = Columns("url", "caption" if has_caption else None, extra=self._columns.extra)
        plain = projected(rows, columns, schema, self.label)
        names = rows.schema.names
        keys = rows.column("key").cast(pa.string()).to_pylist() if "key" in names else [""] * rows.num_rows
        numbers = rows.column("row").to_pylist()
        found = [locate.find(key, row, image_column) for key, row in zip(keys, numbers, strict=True)]
        index = plain.schema.get_field_index("location")
        return plain.set_column(index, plain.schema.field(index), pa.array(found, pa.string()))

    def _iter_without_metadata(self, name: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield rows told by the JSON beside each image, where somebody has deleted the Parquet metadata."""
        locate = self._locator(name)
        sidecars = self._iter_sidecars(name)
        while some := list(islice(sidecars, ROWS_PER_BATCH)):
            some = [(key, values) for key, values in some if values.get("status", "success") == "success"]
            columns = {
                "url": pa.array([values.get("url") for _key, values in some], pa.string()),
                "caption": pa.array([values.get("caption") for _key, values in some], pa.string()),
                "location": pa.array([locate.find(key, 0, None) for key, _values in some], pa.string()),
            }
            for column in self._columns.extra:
                kind = schema.field(column).type
                with naming(self._where(name)):
                    columns[column] = pa.array([values.get(column) for _key, values in some], kind)
            yield row_batch(columns, len(some), schema, self._where(name))

    def _iter_sidecars(self, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if ".tar" in self._kinds[name]:
            with naming(self._where(name)), self._files.open(f"{self._root}/{name}.tar") as file:
                for member in _members(file, self._where(name)):
                    if member.name.endswith(".json"):
                        file.seek(member.offset_data)
                        yield member.name.removesuffix(".json"), _json(file.read(member.size), member.name)
            return
        for entry in self._files.entries(f"{self._root}/{name}"):
            if entry.name.endswith(".json"):
                data = self._files.read(f"{self._root}/{name}/{entry.name}")
                yield entry.name.removesuffix(".json"), _json(data or b"", f"{self._where(name)}/{entry.name}")

    def _locator(self, name: str) -> "_Locator":
        found = self._kinds[name]
        if ".tar" in found:
            members = {}
            with naming(self._where(name)), self._files.open(f"{self._root}/{name}.tar") as file:
                for member in _members(file, self._where(name)):
                    stem, _dot, suffix = member.name.rpartition(".")
                    if f".{suffix.lower()}" in IMAGE_SUFFIXES:
                        members[stem] = (member.offset_data, member.size)
            return _Locator(f"{self._base}/{name}.tar", members=members)
        if "folder" in found:
            entries = self._files.entries(f"{self._root}/{name}")
            images = (PurePosixPath(entry.name) for entry in entries)
            stems = {path.stem: path.name for path in images if path.suffix.lower() in IMAGE_SUFFIXES}
            return _Locator(f"{self._base}/{name}", names=stems)
        return _Locator(f"{self._base}/{name}.parquet")

    def _where(self, name: str) -> str:
        return f"{self.label}/{name}"


class _Locator:
    """Where the image of a key is in one shard; an image that is not there gets a place that does not exist."""

    def __init__(
        self, path: str, members: dict[str, tuple[int, int]] | None = None, names: dict[str, str] | None = None
    ) -> None:
        self._path = path
        self._members = members
        self._names = names

    def find(self, key: str, row: int, image_column: str | None) -> str:
        """The `location` of a row."""
        if self._members is not None:
            offset, size = self._members.get(key, (0, 0))
            path = self._path if key in self._members else f"{self._path}/{key}"
            return Location(path, offset, size).to_text()
        if self._names is not None:
            return Location(f"{self._path}/{self._names.get(key, key)}").to_text()
        return Location(self._path, row=row, column=image_column or _IMAGE_COLUMNS[0]).to_text()


def _members(file: Any, where: str) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            yield from archive
    except tarfile.TarError as error:
        raise SourceMissingError(f"{where}.tar: not a whole tar file: {error}") from error


def _json(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise SourceMissingError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise SourceMissingError(f"{where}: expected an object, got a {type(value).__name__}")
    return value


def _source_file(name: str, found: dict[str, Entry]) -> SourceFile:
    """A shard by the state of all its parts."""
    parts = [found[kind] for kind in sorted(found)]
    modified = " ".join(part.modified for part in parts)
    return SourceFile(name=name, size=sum(part.size for part in parts), modified=modified)
