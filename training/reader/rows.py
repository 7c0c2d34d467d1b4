"""Rows as they are stored, fetched a chunk at a time from all layers that a run reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from controlmill.errors import CorruptShardError
from storage.dataset import Dataset
from storage.record import ShardStatus
from storage.row_ranges import RowRanges
from storage.schema import CONDITION_COLUMN, IMAGE_COLUMN
from training.reader.cache import FLIPPED_BLOBS, LATENT, LATENT_BLOBS, OWN_BLOBS, TEXT, Cached

PEOPLE_COLUMN = "people"
"""Column of a pose layer: who is drawn, as numbers."""
_SIZES = ("width", "height", "original_width", "original_height")


@dataclass(frozen=True, slots=True)
class StoredLatents:
    """One row of the layer `latent`."""

    height: int
    width: int
    mean: bytes
    std: bytes
    flipped_mean: bytes | None
    flipped_std: bytes | None


@dataclass(frozen=True, slots=True)
class StoredPrompt:
    """One row of the layer `text_embedding`."""

    shared: int | None
    """Number of the shared embedding of the shard, None where the row has its own."""
    hidden: bytes | None
    pooled: bytes | None


@dataclass(frozen=True, slots=True)
class StoredHint:
    """One map of a condition."""

    encoded: bytes
    people: list[dict[str, Any]] | None = None
    """Who is drawn, where that was asked for."""


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One row, still encoded."""

    shard: int
    key: str
    size: tuple[int, int]
    """(width, height) of the stored image."""
    original_size: tuple[int, int]
    image: bytes | None
    """None where latents stand for it."""
    hints: tuple[StoredHint, ...]
    caption: str
    latents: StoredLatents | None
    prompt: StoredPrompt | None


class RowSource:
    """Fetches rows from the layers; used by several threads at once."""

    def __init__(
        self,
        dataset: Dataset,
        image: str,
        conditions: Mapping[str, bool],
        captions: tuple[str, str],
        statuses: Mapping[str, Mapping[int, ShardStatus]],
        cached: Cached,
    ) -> None:
        """`conditions`: layers of hints, and whether the people that they draw are wanted too."""
        self._conditions = tuple(conditions)
        self._caption_column = captions[1]
        self._captions_with_images = captions[0] == image
        columns = ["key", *_SIZES]
        if self._captions_with_images:
            columns.append(captions[1])
        if cached.latents is None:
            columns.append(f"{IMAGE_COLUMN}.bytes")
        self._image = RowRanges(dataset, image, columns, statuses[image])
        self._others = {
            name: RowRanges(
                dataset,
                name,
                ["key", *([PEOPLE_COLUMN] if people else []), f"{CONDITION_COLUMN}.bytes"],
                statuses[name],
            )
            for name, people in conditions.items()
        }
        if not self._captions_with_images:
            self._others["caption"] = RowRanges(dataset, captions[0], ["key", captions[1]], statuses[captions[0]])
        if cached.latents is not None:
            names = dataset.layer(LATENT).schema(min(cached.latents)).names
            blobs = [name for name in (*LATENT_BLOBS, *FLIPPED_BLOBS) if name in names]
            columns = ["key", "latent_height", "latent_width", *blobs]
            self._others[LATENT] = RowRanges(dataset, LATENT, columns, cached.latents)
        if cached.prompts is not None:
            self._others[TEXT] = RowRanges(dataset, TEXT, ["key", "shared", *OWN_BLOBS], cached.prompts)

    def fetch(self, shard: int, start: int, stop: int, wanted: Sequence[int]) -> dict[int, StoredRow]:
        """The rows `wanted` of the range `start` to `stop` of a shard, by their place in the shard.

        Raises:
            CorruptShardError: a file is damaged, or a layer's rows are not those of the images.
        """
        image = self._image.read(shard, start, stop)
        others = {name: layer.read(shard, start, stop) for name, layer in self._others.items()}
        keys = image.column("key")
        for name, table in others.items():
            if not table.column("key").equals(keys):
                raise CorruptShardError(f"{name}/{shard:05d}: its keys are not those of the images")
        take = pa.array([row - start for row in wanted], pa.int64())
        columns = self._columns(image.take(take), {name: table.take(take) for name, table in others.items()})
        return {row: _row(shard, one) for row, one in zip(wanted, zip(*columns, strict=True), strict=True)}

    def close(self) -> None:
        """Forget open files."""
        for layer in (self._image, *self._others.values()):
            layer.close()

    def _columns(self, image: pa.Table, others: Mapping[str, pa.Table]) -> list[Sequence[Any]]:
        none = [None] * image.num_rows
        captions = image if self._captions_with_images else others["caption"]
        hints = [_hints(others[name]) for name in self._conditions]
        return [
            image.column("key").to_pylist(),
            *(image.column(name).to_pylist() for name in _SIZES),
            _bytes(image, IMAGE_COLUMN) if IMAGE_COLUMN in image.column_names else none,
            list(zip(*hints, strict=True)),
            captions.column(self._caption_column).to_pylist(),
            others[LATENT].to_pylist() if LATENT in others else none,
            others[TEXT].to_pylist() if TEXT in others else none,
        ]


def _bytes(table: pa.Table, column: str) -> Sequence[Any]:
    encoded: Sequence[Any] = pc.struct_field(table.column(column), "bytes").to_pylist()
    return encoded


def _hints(table: pa.Table) -> list[StoredHint]:
    encoded = _bytes(table, CONDITION_COLUMN)
    has_people = PEOPLE_COLUMN in table.column_names
    people = table.column(PEOPLE_COLUMN).to_pylist() if has_people else [None] * len(encoded)
    return [StoredHint(*pair) for pair in zip(encoded, people, strict=True)]


def _row(shard: int, values: tuple[Any, ...]) -> StoredRow:
    key, width, height, original_width, original_height, image, hints, caption, latents, prompt = values
    return StoredRow(
        shard,
        key,
        (width, height),
        (original_width or width, original_height or height),
        image,
        hints,
        (caption or "").strip(),
        None if latents is None else _latents(latents),
        None if prompt is None else StoredPrompt(prompt["shared"], prompt["hidden"], prompt["pooled"]),
    )


def _latents(row: Mapping[str, Any]) -> StoredLatents:
    mean, std = (row[name] for name in LATENT_BLOBS)
    flipped = (row.get(name) for name in FLIPPED_BLOBS)
    return StoredLatents(row["latent_height"], row["latent_width"], mean, std, *flipped)
