"""A folder of local images as a source: every image below it, in sorted order, with the text file beside it."""

import heapq
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

import pyarrow as pa

from controlmill.config.source import SourceOptions
from controlmill.errors import SourceMissingError
from storage.description import SourceFile
from storage.filesystem import open_files, redact
from storage.schema import source_schema
from tasks.sources.base import Planned, changed
from tasks.sources.location import Location
from tasks.sources.rows import ROWS_PER_BATCH, Columns, naming, row_batch

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2"}
)

Row = tuple[str, str | None]
"""Path relative to the folder, and caption."""


class ImageFolder:
    """All images below a folder. New images may come anywhere in the order: they are told by their paths."""

    def __init__(self, config: SourceOptions) -> None:
        uri = config.image_folder or ""
        self.label = redact(uri)
        self._extra = Columns.of(config).extra
        with naming(self.label):
            self._files, self._root = open_files(uri)
        self._base = self._root if self._files.is_local else uri.rstrip("/")

    def schema(self) -> pa.Schema:
        """The schema of source shards: images have a path and a caption, and no other columns."""
        Columns("url", extra=self._extra).check(["url", "caption"], self.label)
        return source_schema()

    def news(self, planned: Planned, schema: pa.Schema) -> "ImageFolderNews":
        """Compare the images that are there with the planned ones; raises SourceChangedError where one is gone."""
        del schema
        with naming(self.label):
            entry = self._files.stat(self._root)
        if entry is None or not entry.is_folder:
            raise SourceMissingError(f"{self.label}: there is no such folder")
        return ImageFolderNews(self, planned)

    def iter_images(self) -> Iterator[Row]:
        """Yield every image and its caption, in the order of the path's parts."""
        yield from self._walk("", frozenset())

    def location(self, path: str) -> str:
        """The `location` of an image."""
        return Location(f"{self._base}/{path}").to_text()

    def _walk(self, relative: str, above: frozenset[str]) -> Iterator[Row]:
        folder = f"{self._root}/{relative}".rstrip("/")
        if self._files.is_local:
            real = str(Path(folder).resolve())
            if real in above:  # a link to a folder that this one is in
                return
            above |= {real}
        with naming(self.label):
            entries = [entry for entry in self._files.entries(folder) if not entry.name.startswith(".")]
        names = {entry.name for entry in entries}
        for entry in entries:
            path = f"{relative}{entry.name}"
            if entry.is_folder:
                yield from self._walk(f"{path}/", above)
            elif PurePosixPath(entry.name).suffix.lower() in IMAGE_SUFFIXES:
                if path != path.encode(errors="replace").decode():
                    raise SourceMissingError(f"{self.label}: the file name {path!r} is not UTF-8: rename it")
                has_caption = f"{PurePosixPath(entry.name).stem}.txt" in names
                yield path, self._caption(path) if has_caption else None

    def _caption(self, path: str) -> str | None:
        beside = PurePosixPath(path).with_suffix(".txt")
        with naming(f"{self.label}/{beside}"):
            data = self._files.read(f"{self._root}/{beside}")
        return data.decode("utf-8-sig", errors="replace").strip() if data is not None else None


class ImageFolderNews:
    """The images that are not planned yet."""

    def __init__(self, folder: ImageFolder, planned: Planned) -> None:
        self._folder = folder
        self._planned = planned
        self._num_rows = 0
        self.changes: list[str] = []
        if planned.files:
            num_new = 0
            first = ""
            for path, _caption in self._iter_new():
                first = first or path
                num_new += 1
            if num_new:
                self.changes = [f"{num_new:,} new images, {first} the first of them"]

    def iter_rows(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield the new images."""
        rows = self._iter_new()
        self._num_rows = sum(file.rows for file in self._planned.files)
        while some := list(islice(rows, ROWS_PER_BATCH)):
            columns = {
                "url": pa.array([path for path, _caption in some], pa.string()),
                "caption": pa.array([caption for _path, caption in some], pa.string()),
                "location": pa.array([self._folder.location(path) for path, _caption in some], pa.string()),
            }
            self._num_rows += len(some)
            yield row_batch(columns, len(some), schema, self._folder.label)

    def files(self) -> list[SourceFile]:
        """The folder as one entry: its images are known by the source shards."""
        rows = self._num_rows or sum(file.rows for file in self._planned.files)
        return [SourceFile(name=".", size=0, modified="", rows=rows)]

    def _iter_new(self) -> Iterator[Row]:
        """Merge what is planned with what is there, both sorted: what is there only is new."""
        old_rows = heapq.merge(*self._planned.iter_runs(), key=_order) if self._planned.files else iter(())
        old = next(old_rows, None)
        for row in self._folder.iter_images():
            if old is not None and _order(old) < _order(row):
                raise changed(self._folder.label, f"{old[0]} is gone")
            if old is None or old[0] != row[0]:
                yield row
                continue
            if old[1] != row[1]:
                raise changed(self._folder.label, f"the caption of {row[0]} is another")
            old = next(old_rows, None)
        if old is not None:
            raise changed(self._folder.label, f"{old[0]} is gone")


def _order(row: Row) -> tuple[str, ...]:
    return tuple(row[0].split("/"))
