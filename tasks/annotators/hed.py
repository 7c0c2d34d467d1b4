"""Soft edges and scribbles by HED.

Xie and Tu, "Holistically-Nested Edge Detection", 2015, in the network and weights that ControlNet was trained with
(ControlNetHED, Apache-2.0). "Safe" maps have three levels, so that no grey copy of the image can hide in them: three
quarters of ControlNet 1.1's training maps were.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import cv2
import numpy as np

from controlmill.config.base import Options
from storage.weights.reference import FoundWeights, WeightsFile
from tasks.annotators.base import Annotation, Polarity
from tasks.annotators.network import NetworkOptions, PaddedNetworkAnnotator, annotators_file, loaded, to_pixels
from tasks.images.types import Pixels, as_pixels

if TYPE_CHECKING:
    from torch import Tensor, nn

HED_WEIGHTS = annotators_file("ControlNetHED.pth", "5ca93762ffd68a29fee1af9d495bf6aab80ae86f08905fb35472a083a4c7a8fa")
_FAINT = 64


class HedOptions(NetworkOptions):
    """Which of the four maps that ControlNet knows."""

    safe: bool = False
    """Three levels instead of 256."""
    scribble: bool = False
    """Thin the edges, draw them as wide strokes, and keep black and white only."""


class Hed(PaddedNetworkAnnotator):
    """Soft white edges on black: the mean of HED's five side outputs through a sigmoid.

    The flag `empty` says that no pixel reaches a quarter of white.
    """

    name = "hed"
    version: ClassVar[str] = "1"
    options_model: ClassVar[type[Options]] = HedOptions
    polarity: ClassVar[Polarity] = "white_on_black"
    flags: ClassVar[tuple[str, ...]] = ("empty",)
    weights: ClassVar[tuple[WeightsFile, ...]] = (HED_WEIGHTS,)
    # four poolings by two
    multiple: ClassVar[int] = 16
    options: HedOptions

    def build(self, found: Sequence[FoundWeights]) -> "nn.Module":
        """ControlNet's HED."""
        return hed_network(found[0])

    def infer(self, padded_BCPQ: "Tensor", height: int, width: int) -> list[Annotation]:
        """Edges of each image."""
        edges_BHW = edges(self.network, padded_BCPQ, safe=self.options.safe)[:, :height, :width]
        maps = to_pixels(edges_BHW)
        if self.options.scribble:
            maps = np.stack([scribble(one) for one in maps])
        return [Annotation(one, {"empty": bool(one.max() < _FAINT)}) for one in maps]


def hed_network(found: FoundWeights) -> "nn.Module":
    """ControlNet's HED with the weights of a file."""
    from controlnet_aux.hed import ControlNetHED_Apache2

    return loaded(ControlNetHED_Apache2(), found)


def edges(network: "nn.Module", padded_BCPQ: "Tensor", *, safe: bool) -> "Tensor":
    """Edge probabilities (B, P, Q) of 0 to 1, float64, fused on the device."""
    import torch
    from torch.nn import functional

    size = padded_BCPQ.shape[-2:]
    sides = [functional.interpolate(side, size, mode="bilinear", align_corners=False) for side in network(padded_BCPQ)]
    fused_BHW = torch.cat(sides, dim=1).mean(dim=1).double().sigmoid()
    return (fused_BHW.float() * 3).floor().div(2).double() if safe else fused_BHW


def scribble(soft: Pixels) -> Pixels:
    """Wide white strokes (H, W) from soft edges (H, W): ridges of the smoothed map, drawn out and made bilevel.

    The numbers are those of ControlNet's scribble annotator: ridges above 127 at a scale of 3 pixels, strokes of 3.
    """
    smooth = cv2.GaussianBlur(soft.astype(np.float32), (0, 0), 3.0)
    ridge = np.zeros_like(smooth)
    for line in _LINES:
        on_ridge = cv2.dilate(smooth, line) == smooth
        ridge[on_ridge] = smooth[on_ridge]
    return stroke(as_pixels((ridge > 127) * np.uint8(255)))


def stroke(lines: Pixels) -> Pixels:
    """Lines of one pixel (H, W), 0 and 255, drawn about 13 pixels wide."""
    wide = cv2.GaussianBlur(lines, (0, 0), 3.0)
    return as_pixels(cv2.threshold(wide, 4, 255, cv2.THRESH_BINARY)[1])


def _line(*cells: tuple[int, int]) -> Pixels:
    kernel = np.zeros((3, 3), np.uint8)
    for row, column in cells:
        kernel[row, column] = 1
    return kernel


_LINES = (
    _line((1, 0), (1, 1), (1, 2)),
    _line((0, 1), (1, 1), (2, 1)),
    _line((0, 0), (1, 1), (2, 2)),
    _line((0, 2), (1, 1), (2, 0)),
)
