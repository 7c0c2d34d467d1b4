"""Scribbles: wide strokes where somebody would draw a line, from HED's soft edges or from Canny's."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import model_validator

from controlmill.config.base import Options
from storage.weights.reference import FoundWeights, WeightsFile
from tasks.annotators.base import Annotation, Polarity
from tasks.annotators.canny import Canny, CannyOptions, Threshold
from tasks.annotators.hed import HED_WEIGHTS, edges, hed_network, scribble, stroke
from tasks.annotators.network import NetworkOptions, PaddedNetworkAnnotator, to_pixels
from tasks.images.types import Pixels

if TYPE_CHECKING:
    from torch import Tensor, nn


class ScribbleOptions(NetworkOptions):
    """Where the lines come from."""

    source: Literal["hed", "canny"] = "hed"
    """HED's ridges, as ControlNet's annotator; or Canny's edges, which need no weights."""
    safe: bool = False
    """With hed: from its map of three levels."""
    low_threshold: Threshold = (100, 100)
    """With canny: edges are followed down to this gradient; a number, or a range of which each row draws its own."""
    high_threshold: Threshold = (200, 200)
    """With canny: edges start where the gradient is at least this."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.canny()
        of_others = ("low_threshold", "high_threshold") if self.source == "hed" else ("safe", "weights")
        other = "canny" if self.source == "hed" else "hed"
        for name in of_others:
            # told by the value, because what is remembered of a layer names every option
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name}: it is for source {other}, not {self.source}; leave it out, or say source={other}"
                )
        return self

    def canny(self) -> CannyOptions:
        """The thresholds as Canny takes them."""
        return CannyOptions(low_threshold=self.low_threshold, high_threshold=self.high_threshold)


class Scribble(PaddedNetworkAnnotator):
    """White strokes about 13 pixels wide, on black, nothing in between. The flag `empty` says that there is none."""

    name = "scribble"
    version: ClassVar[str] = "1"
    options_model: ClassVar[type[Options]] = ScribbleOptions
    polarity: ClassVar[Polarity] = "white_on_black"
    flags: ClassVar[tuple[str, ...]] = ("empty",)
    weights: ClassVar[tuple[WeightsFile, ...]] = (HED_WEIGHTS,)
    multiple: ClassVar[int] = 16
    options: ScribbleOptions

    def needed_weights(self) -> tuple[WeightsFile, ...]:
        """HED's, or none."""
        return (HED_WEIGHTS,) if self.options.source == "hed" else ()

    def versions(self) -> dict[str, str]:
        """Those of HED, or none."""
        return super().versions() if self.options.source == "hed" else {}

    def setup(self, device: str = "cpu") -> None:
        """Load HED onto the device, or nothing."""
        if self.options.source == "hed":
            super().setup(device)
        else:
            self._canny = Canny(self.options.canny(), self.seed)
            self._canny.setup(device)

    def build(self, found: Sequence[FoundWeights]) -> "nn.Module":
        """ControlNet's HED."""
        return hed_network(found[0])

    def annotate(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[Annotation]:
        """Strokes of each image, all of one size."""
        if self.options.source == "hed":
            return super().annotate(images, keys)
        return [_annotation(stroke(one.map)) for one in self._canny.annotate(images, keys)]

    def infer(self, padded_BCPQ: "Tensor", height: int, width: int) -> list[Annotation]:
        """Strokes from HED's edges."""
        edges_BHW = edges(self.network, padded_BCPQ, safe=self.options.safe)[:, :height, :width]
        return [_annotation(scribble(soft)) for soft in to_pixels(edges_BHW)]

    def recipe(self) -> dict[str, Any]:
        """Without the options of the source that is not used."""
        unused = {"low_threshold", "high_threshold"} if self.options.source == "hed" else {"safe"}
        return {name: value for name, value in super().recipe().items() if name not in unused}


def _annotation(strokes: Pixels) -> Annotation:
    return Annotation(strokes, {"empty": not strokes.any()})
