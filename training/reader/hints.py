"""What the maps of a condition mean to a reader: how they become hints, and how they are mirrored."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from storage.ade20k import draw_classes
from storage.people import BODY, draw_people, mirrored
from storage.stored_image import Pixels, decode_map
from training.reader.geometry import View, cut
from training.reader.rows import PEOPLE_COLUMN, StoredHint

_X_CHANNEL = {"normals_xyz": 0, "normals_zyx": 2}
"""Channel that holds the direction to the right, by the content of a map."""


@dataclass(frozen=True, slots=True)
class HintKind:
    """How the maps of one layer are read."""

    layer: str
    content: str
    """As the layer's schema says: "map", "class_ids", "normals_xyz", "normals_zyx", "inverse_depth"."""
    has_people: bool
    """Whether it draws people, whose left and right limbs have colours of their own."""
    with_bodies: bool = True
    """Whether it draws their bodies, or hands and faces alone."""
    polarity: str = ""
    """As the layer's schema says: "white_on_black", "black_on_white", "none"; empty where it says nothing."""
    channel_order: str = ""
    """The same: "RGB" or "L"."""

    @classmethod
    def of(cls, layer: str, schema: pa.Schema, options: Mapping[str, Any] | None = None) -> "HintKind":
        """The kind of a layer with this schema, whose annotator had these options."""
        metadata = schema.metadata or {}
        with_bodies = bool((options or {}).get("include_body", True))
        content, polarity, order = (
            metadata.get(name, other).decode()
            for name, other in ((b"content", b"map"), (b"polarity", b""), (b"channel_order", b""))
        )
        return cls(layer, content, PEOPLE_COLUMN in schema.names, with_bodies, polarity, order)

    def cut(self, stored: StoredHint, view: View) -> Pixels:
        """The hint (height, width) or RGB (height, width, 3) as `view` sees the image.

        Mirrored normals point to the other side: x is negated. Mirrored people are drawn anew, because the colour of a
        limb says whether it is the left one. Class ids are drawn in ADE20K's colours.

        Raises:
            ValueError: the bytes are no map.
        """
        if view.flipped and self.has_people:
            return self._mirrored_people(stored, view)
        is_class = self.content == "class_ids"
        pixels = cut(decode_map(stored.encoded), view, nearest=is_class)
        if is_class:
            return draw_classes(pixels)
        channel = _X_CHANNEL.get(self.content)
        if channel is not None and view.flipped:
            pixels = pixels.copy()
            pixels[..., channel] = 255 - pixels[..., channel]
        return pixels

    def as_made(self, stored: StoredHint, view: View) -> Any:
        """What the annotator itself would make of the part that `view` sees, not mirrored.

        The map (height, width) or RGB (height, width, 3), class ids as they are; of people the list that is stored,
        their bodies' joints moved with the cut.

        Raises:
            ValueError: the bytes are no map.
        """
        pixels = decode_map(stored.encoded)
        if self.has_people:
            return [_moved(person, view.resized[0] / pixels.shape[1], view) for person in stored.people or []]
        return cut(pixels, view, nearest=self.content == "class_ids")

    def _mirrored_people(self, stored: StoredHint, view: View) -> Pixels:
        if stored.people is None:
            raise ValueError(f"{self.layer} has no people to be drawn mirrored")
        height, width = decode_map(stored.encoded).shape[:2]
        canvas = draw_people(mirrored(stored.people, width), height, width, body=self.with_bodies)
        from_left = view.resized[0] - view.left - view.target[0]
        return cut(canvas, replace(view, left=from_left, flipped=False))


def _moved(person: Mapping[str, Any], scale: float, view: View) -> dict[str, Any]:
    points = np.asarray(person[BODY], dtype=np.float64).reshape(-1, 3).copy()
    # joints that were not found are zeros, and stay where they are
    seen = points[:, 2] > 0
    points[seen, :2] = points[seen, :2] * scale - (view.left, view.top)
    return {**person, BODY: points.ravel().tolist()}
