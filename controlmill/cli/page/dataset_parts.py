"""What the page says of the dataset: layers, failures, and some rows to look at."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from controlmill.cli.page.html import Column, Html, element, image, section, table
from controlmill.errors import ControlmillError
from controlmill.reasons import MEANINGS, Reason

if TYPE_CHECKING:
    from controlmill.cli.survey import Survey
    from tasks.contact_sheet import Sample

_NUM_ROWS = 8
_SIDE = 192
"""Pixels of a picture's longer side."""


def dataset(uri: str, conditions: Sequence[str]) -> Html:
    """Layers, failures by reason, and rows with their hints and captions; a sentence where it is not to be had."""
    from controlmill.cli.survey import survey
    from storage.dataset import Dataset
    from storage.filesystem import redact
    from tasks.contact_sheet import samples_of

    address = element("p", element("code", redact(uri)))
    try:
        opened = Dataset.open(uri)
        found = survey(opened)
        rows = samples_of(opened, _NUM_ROWS)
    except ControlmillError as error:
        said = f"Not shown: {error}. Give its present place with --train-data-dir."
        return section("Dataset", address, element("p", said, class_="pale"))
    figures = [_row(one, conditions) for one in rows]
    return section("Dataset", address, _layers(found), _failures(found), element("div", *figures, class_="rows"))


def _layers(found: "Survey") -> Html:
    columns = [Column("layer"), Column("rows", "number"), Column("shards", "number"), Column("size", "number")]
    rows = [
        (layer.name, f"{layer.num_rows:,}", f"{layer.num_shards:,}/{found.num_planned_shards:,}",
         f"{layer.num_bytes / 2**20:,.1f} MiB", f"{layer.unit.get('name', '')} {layer.unit.get('version', '')}".strip())
        for layer in found.layers
    ]  # fmt: skip
    return table([*columns, Column("made by")], rows)


def _failures(found: "Survey") -> Html:
    if not found.reasons:
        return element("p", f"None of {found.num_planned_rows:,} planned rows failed.", class_="pale")
    known = set(Reason)
    rows = [
        (f"{num:,}", element("code", reason), MEANINGS.get(Reason(reason), "") if reason in known else "")
        for reason, num in found.reasons.most_common()
    ]
    return Html(
        element("h3", "Rows without an image")
        + table([Column("failed", "number"), Column("reason"), Column("", "wide")], rows)
    )


def _row(sample: "Sample", conditions: Sequence[str]) -> Html:
    shown = ["image", *(name for name in sample.pictures if name in conditions)]
    pictures = [_picture(sample.pictures[name], name) for name in shown]
    return element("figure", element("div", *pictures, class_="pair"), element("figcaption", sample.caption))


def _picture(encoded: bytes | None, name: str) -> Html:
    """A small copy; lossless for what is small already, so that thin lines stay thin."""
    if encoded is None:
        return element("span", f"no {name}", class_="pale")
    with Image.open(io.BytesIO(encoded)) as stored:
        picture = stored.convert("RGB")
    is_photo = max(picture.size) > _SIDE and name == "image"
    picture.thumbnail((_SIDE, _SIDE))
    made = io.BytesIO()
    picture.save(made, "JPEG" if is_photo else "PNG", **({"quality": 85} if is_photo else {"optimize": True}))
    return image(made.getvalue(), "image/jpeg" if is_photo else "image/png", name)
