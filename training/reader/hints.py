"""What the maps of a condition mean to a reader: how they become hints, and how they are mirrored."""

from dataclasses import dataclass

import pyarrow as pa

from controlmill.errors import ConfigError
from storage.ade20k import draw_classes
from storage.stored_image import Pixels, decode_map
from training.reader.geometry import View, cut

_X_CHANNEL = {"normals_xyz": 0, "normals_zyx": 2}
"""Channel that holds the direction to the right, by the content of a map."""


@dataclass(frozen=True, slots=True)
class HintKind:
    """How the maps of one layer are read."""

    layer: str
    content: str
    """As the layer's schema says: "map", "class_ids", "normals_xyz", "normals_zyx", "inverse_depth"."""
    handed: bool
    """Whether the drawing tells a left limb from a right one."""

    @classmethod
    def of(cls, layer: str, schema: pa.Schema) -> "HintKind":
        """The kind of a layer with this schema."""
        metadata = schema.metadata or {}
        return cls(layer, metadata.get(b"content", b"map").decode(), "people" in schema.names)

    def check_flip(self) -> None:
        """Refuse to mirror what becomes wrong by it.

        Raises:
            ConfigError: the colours of a skeleton say which arm is the left one; mirrored, they would say the opposite.
        """
        if self.handed:
            raise ConfigError(
                f"random_flip: {self.layer} draws left and right limbs in colours of their own, and a mirrored drawing "
                "would swap them; train without random_flip"
            )

    def cut(self, encoded: bytes, view: View) -> Pixels:
        """The hint (height, width) or RGB (height, width, 3) as `view` sees the image.

        Mirrored normals point to the other side: x is negated. Class ids are drawn in ADE20K's colours.

        Raises:
            ValueError: the bytes are no map.
        """
        is_class = self.content == "class_ids"
        pixels = cut(decode_map(encoded), view, nearest=is_class)
        if is_class:
            return draw_classes(pixels)
        channel = _X_CHANNEL.get(self.content)
        if channel is not None and view.flipped:
            pixels = pixels.copy()
            pixels[..., channel] = 255 - pixels[..., channel]
        return pixels
