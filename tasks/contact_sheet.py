"""A contact sheet: images beside their maps with captions, one PNG that shows whether a dataset is what one meant."""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from controlmill.errors import StorageWriteError
from storage.dataset import Dataset
from tasks.annotators.segmentation.palette import draw_classes
from tasks.images.encode import encode_map

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_PAPER: Final = (255, 255, 255)
_FRAME: Final = (214, 217, 222)
_EMPTY: Final = (243, 244, 246)
_INK: Final = (31, 35, 40)
_PALE_INK: Final = (110, 117, 125)
_CELL: Final = 288
_GAP: Final = 8
_MARGIN: Final = 32
_TITLE_HEIGHT: Final = 30
_LINE_HEIGHT: Final = 21
_NUM_CAPTION_LINES: Final = 2
_ROW_GAP: Final = 22
_SHEET_WIDTH: Final = 1280
_MAP_COLUMNS: Final = ["key", "conditioning_image"]
_CAPTION: Final = "caption"
_NOT_LAYERS_OF_PICTURES: Final = frozenset({"source", "image", "failures", _CAPTION})


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a dataset: what it says, and its encoded pictures by layer, None where a map could not be made."""

    caption: str
    pictures: Mapping[str, bytes | None]


def draw_contact_sheet(samples: Iterable[Sample], num_rows: int = 8) -> Image.Image:
    """Draw at most `num_rows` samples: a panel for each, its pictures side by side under the names of their layers.

    Pictures keep their aspect; panels stand side by side where they fit on a sheet of about 1,280 pixels.
    """
    shown = list(islice(samples, num_rows))
    layers = list(dict.fromkeys(name for sample in shown for name in sample.pictures)) or ["image"]
    panel_width = len(layers) * (_CELL + _GAP) - _GAP
    num_across = max(1, min(len(shown), (_SHEET_WIDTH - _MARGIN) // (panel_width + _MARGIN)))
    panel_height = _CELL + _GAP + _NUM_CAPTION_LINES * _LINE_HEIGHT + _ROW_GAP
    num_down = -(-len(shown) // num_across)
    size = (
        _MARGIN + num_across * (panel_width + _MARGIN),
        2 * _MARGIN + _TITLE_HEIGHT + num_down * panel_height - _ROW_GAP,
    )
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    title = ImageFont.load_default(18)
    for across in range(num_across):
        for column, layer in enumerate(layers):
            left = _MARGIN + across * (panel_width + _MARGIN) + column * (_CELL + _GAP)
            draw.text((left, _MARGIN - 4), layer, _INK, title)
    for index, sample in enumerate(shown):
        left = _MARGIN + index % num_across * (panel_width + _MARGIN)
        top = _MARGIN + _TITLE_HEIGHT + index // num_across * panel_height
        for column, layer in enumerate(layers):
            _draw_cell(sheet, draw, (left + column * (_CELL + _GAP), top), sample.pictures.get(layer))
        _draw_caption(draw, (left, top + _CELL + _GAP), panel_width, sample.caption)
    return sheet


def write_contact_sheet(dataset: Dataset, path: Path, num_rows: int = 8) -> None:
    """Draw rows of the image layer beside the maps of every other layer, evenly over the shards, into a PNG file.

    Raises:
        CorruptShardError: a layer does not match its record.
        StorageWriteError: the file cannot be written.
    """
    sheet = draw_contact_sheet(samples_of(dataset, num_rows), num_rows)
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise StorageWriteError(f"{path}: cannot write the contact sheet: {error.strerror or error}") from error


def samples_of(dataset: Dataset, num_rows: int) -> list[Sample]:
    """The first rows of shards that lie evenly over the dataset, `num_rows` in all where there are so many."""
    shards = sorted(dataset.layer("image").committed())
    if not shards:
        return []
    num_shards = min(len(shards), num_rows)
    chosen = [shards[index * len(shards) // num_shards] for index in range(num_shards)]
    samples: list[Sample] = []
    for number, shard in enumerate(chosen):
        # later shards make up for what earlier ones were short of
        wanted = -(-(num_rows - len(samples)) // (num_shards - number))
        samples += _samples_of_shard(dataset, shard, wanted)
    return samples


def _samples_of_shard(dataset: Dataset, shard: int, num_rows: int) -> list[Sample]:
    names = [name for name in dataset.layers() if _is_of_pictures(dataset, name)]
    rows = _first_rows(dataset, "image", shard, ["key", "caption", "url", "image"], num_rows)
    maps = {name: _maps(dataset, name, shard, num_rows) for name in names if dataset.layer(name).exists(shard)}
    captions: dict[str, str | None] = {}
    if dataset.layer(_CAPTION).exists(shard):
        written = _first_rows(dataset, _CAPTION, shard, ["key", "caption"], num_rows)
        captions = {row["key"]: row["caption"] for row in written}
    return [
        Sample(
            captions.get(row["key"]) or row["caption"] or row["url"] or row["key"],
            {"image": row["image"]["bytes"], **{name: maps.get(name, {}).get(row["key"]) for name in names}},
        )
        for row in rows
    ]


def _is_of_pictures(dataset: Dataset, name: str) -> bool:
    """Whether a layer holds maps, and not numbers as those of `controlmill encode` do."""
    if name in _NOT_LAYERS_OF_PICTURES:
        return False
    layer = dataset.layer(name)
    committed = sorted(layer.committed())
    return not committed or "conditioning_image" in layer.schema(committed[0]).names


def _maps(dataset: Dataset, name: str, shard: int, num_rows: int) -> dict[str, bytes | None]:
    """The encoded maps of a layer by key, class ids in their colours."""
    metadata = dataset.layer(name).schema(shard).metadata or {}
    draw = _in_colors if metadata.get(b"classes") == b"ade20k" else bytes
    rows = _first_rows(dataset, name, shard, _MAP_COLUMNS, num_rows)
    made = {row["key"]: row["conditioning_image"] for row in rows}
    return {key: draw(one["bytes"]) if one else None for key, one in made.items()}


def _in_colors(encoded: bytes) -> bytes:
    with Image.open(io.BytesIO(encoded)) as ids:
        return encode_map(draw_classes(np.asarray(ids)))


def _first_rows(dataset: Dataset, layer: str, shard: int, columns: list[str], num_rows: int) -> list[dict[str, Any]]:
    batches = dataset.layer(layer).iter_batches(shard, columns, num_rows)
    return list(islice((row for batch in batches for row in batch.to_pylist()), num_rows))


def _draw_cell(sheet: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], encoded: bytes | None) -> None:
    left, top = corner
    if encoded is None:
        draw.rectangle((left, top, left + _CELL - 1, top + _CELL - 1), _EMPTY, _FRAME)
        draw.text((left + _CELL / 2, top + _CELL / 2), "no map", _PALE_INK, ImageFont.load_default(15), anchor="mm")
        return
    with Image.open(io.BytesIO(encoded)) as stored:
        picture = stored.convert("RGB")
    scale = _CELL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)
    left, top = left + (_CELL - size[0]) // 2, top + (_CELL - size[1]) // 2
    sheet.paste(picture, (left, top))
    draw.rectangle((left - 1, top - 1, left + size[0], top + size[1]), outline=_FRAME)


def _draw_caption(draw: ImageDraw.ImageDraw, corner: tuple[int, int], width: int, caption: str) -> None:
    font = ImageFont.load_default(15)
    for number, line in enumerate(_wrap(caption, font, width)):
        draw.text((corner[0], corner[1] + number * _LINE_HEIGHT), line, _PALE_INK, font)


def _wrap(text: str, font: Font, width: int) -> list[str]:
    """The text in at most two lines of at most `width` pixels; what does not fit is cut with an ellipsis."""
    lines: list[str] = []
    # what no row of a caption can hold need not be measured
    rest = " ".join(text[:1000].split())
    while rest and len(lines) < _NUM_CAPTION_LINES:
        length = len(rest)
        while length > 1 and font.getlength(rest[:length]) > width:
            space = rest.rfind(" ", 0, length)
            length = space if space > 0 else length - 1
        lines.append(rest[:length])
        rest = rest[length:].lstrip()
    if rest:
        last = lines[-1]
        while last and font.getlength(last + "...") > width:
            last = last[:-1]
        lines[-1] = last.rstrip() + "..."
    return lines
