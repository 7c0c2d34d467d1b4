"""Line drawings by a generator.

Chan et al., "Learning to generate line drawings that convey geometry and semantics", 2022, in the weights that
ControlNet 1.1 was trained with: one generator for fine lines, one for coarse ones.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from controlmill.config.base import Options
from storage.weights.reference import FoundWeights, WeightsFile
from tasks.annotators.base import Annotation, Polarity
from tasks.annotators.network import NetworkOptions, PaddedNetworkAnnotator, annotators_file, loaded, to_pixels

if TYPE_CHECKING:
    from torch import Tensor, nn

FINE_WEIGHTS: Final = annotators_file(
    "sk_model.pth", "c686ced2a666b4850b4bb6ccf0748031c3eda9f822de73a34b8979970d90f0c6"
)
COARSE_WEIGHTS: Final = annotators_file(
    "sk_model2.pth", "30a534781061f34e83bb9406b4335da4ff2616c95d22a585c1245aa8363e74e0"
)
_FAINT = 64


class LineartOptions(NetworkOptions):
    """Which lines."""

    coarse: bool = False
    """Few, simple lines instead of fine ones."""


class Lineart(PaddedNetworkAnnotator):
    """White lines on black, as somebody would draw the picture.

    The network normalizes by the mean of the whole picture, so where height or width is no multiple of 4 the repeated
    edge has a small part in every pixel. The flag `empty` says that no pixel reaches a quarter of white.
    """

    name = "lineart"
    version: ClassVar[str] = "1"
    options_model: ClassVar[type[Options]] = LineartOptions
    polarity: ClassVar[Polarity] = "white_on_black"
    flags: ClassVar[tuple[str, ...]] = ("empty",)
    weights: ClassVar[tuple[WeightsFile, ...]] = (FINE_WEIGHTS, COARSE_WEIGHTS)
    # two convolutions of stride two, and transposed ones back
    multiple: ClassVar[int] = 4
    options: LineartOptions

    def needed_weights(self) -> tuple[WeightsFile, ...]:
        """Those of the lines that are wanted."""
        return (COARSE_WEIGHTS,) if self.options.coarse else (FINE_WEIGHTS,)

    def build(self, found: Sequence[FoundWeights]) -> "nn.Module":
        """The generator."""
        from controlnet_aux.lineart import Generator

        return loaded(Generator(3, 1, 3), found[0])

    def infer(self, padded_BCPQ: "Tensor", height: int, width: int) -> list[Annotation]:
        """Lines of each image."""
        paper_BPQ = self.network(padded_BCPQ / 255.0)[:, 0]
        maps = 255 - to_pixels(paper_BPQ[:, :height, :width])
        return [Annotation(one, {"empty": bool(one.max() < _FAINT)}) for one in maps]
