"""Straight lines by M-LSD.

Gu et al., "Towards Light-weight and Real-time Line Segment Detection", 2022: the large network, in the weights that
ControlNet was trained with.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from controlmill.config.base import Options
from storage.weights.reference import FoundWeights, WeightsFile
from tasks.annotators.base import Annotation, Polarity
from tasks.annotators.network import NetworkOptions, PaddedNetworkAnnotator, annotators_file, finite, loaded
from tasks.images.types import as_pixels

if TYPE_CHECKING:
    from torch import Tensor, nn

MLSD_WEIGHTS: Final = annotators_file(
    "mlsd_large_512_fp32.pth", "5696f168eb2c30d4374bbfd45436f7415bb4d88da29bea97eea0101520fba082"
)
_MOST_LINES = 200
# the network's maps have half the height and width
_STRIDE = 2


class MlsdOptions(NetworkOptions):
    """Which lines are drawn; the names are those of controlnet_aux."""

    thr_v: float = Field(default=0.1, ge=0, le=1)
    """Least score of a line."""
    thr_d: float = Field(default=0.1, ge=0)
    """Least length of a line, in units of two pixels."""


class Mlsd(PaddedNetworkAnnotator):
    """Straight white lines, one pixel wide, on black; at most 200, the likeliest.

    `num_lines` is how many were drawn; the flag `empty` says that it is none.
    """

    name = "mlsd"
    version: ClassVar[str] = "1"
    options_model: ClassVar[type[Options]] = MlsdOptions
    polarity: ClassVar[Polarity] = "white_on_black"
    flags: ClassVar[tuple[str, ...]] = ("empty",)
    weights: ClassVar[tuple[WeightsFile, ...]] = (MLSD_WEIGHTS,)
    # strides of two up to a sixteenth, added up again without rounding
    multiple: ClassVar[int] = 16
    options: MlsdOptions

    @classmethod
    def columns(cls) -> list[pa.Field]:
        """How many lines, and whether there is none."""
        return [pa.field("num_lines", pa.int32()), *super().columns()]

    def build(self, found: Sequence[FoundWeights]) -> "nn.Module":
        """M-LSD, the large one."""
        from controlnet_aux.mlsd.models.mbv2_mlsd_large import MobileV2_MLSD_Large

        return loaded(MobileV2_MLSD_Large(), found[0])

    def infer(self, padded_BCPQ: "Tensor", height: int, width: int) -> list[Annotation]:
        """Lines of each image."""
        import torch

        # a fourth channel of ones, scaled like a colour
        four = torch.cat([padded_BCPQ, torch.ones_like(padded_BCPQ[:, :1])], dim=1)
        maps_BChw = finite(self.network(four / 127.5 - 1.0))
        return [self._draw(lines, height, width) for lines in self._lines(maps_BChw, height, width)]

    def _lines(self, maps_BChw: "Tensor", height: int, width: int) -> list[NDArray[Any]]:
        """Ends of the lines of each image, (n, 4): x, y, x, y in pixels; the likeliest first."""
        import torch
        from torch.nn import functional

        center_Bhw = maps_BChw[:, 0].sigmoid()
        is_peak = functional.max_pool2d(center_Bhw, 3, stride=1, padding=1) == center_Bhw
        # centres in what was added at the edges belong to nothing
        rows, columns = -(-height // _STRIDE), -(-width // _STRIDE)
        inside = torch.zeros_like(is_peak)
        inside[:, :rows, :columns] = True
        score_Bn = (center_Bhw * is_peak * inside).flatten(1)
        best_Bk, index_Bk = score_Bn.topk(min(_MOST_LINES, score_Bn.shape[1]), dim=1)
        ways_B4k = maps_BChw[:, 1:5].flatten(2).gather(2, index_Bk[:, None].expand(-1, 4, -1))
        num_columns = center_Bhw.shape[2]
        middle_B2k = torch.stack([index_Bk % num_columns, index_Bk // num_columns], dim=1)
        ends_B4k = (middle_B2k.repeat(1, 2, 1) + ways_B4k) * _STRIDE
        length_Bk = (ways_B4k[:, :2] - ways_B4k[:, 2:]).square().sum(dim=1).sqrt()
        kept_Bk = (best_Bk > self.options.thr_v) & (length_Bk > self.options.thr_d)
        pairs = zip(ends_B4k.cpu().numpy(), kept_Bk.cpu().numpy(), strict=True)
        return [ends_4k.T[kept_k] for ends_4k, kept_k in pairs]

    @staticmethod
    def _draw(lines: NDArray[Any], height: int, width: int) -> Annotation:
        canvas = np.zeros((height, width), np.uint8)
        for line in lines:
            x, y, other_x, other_y = (int(value) for value in line)
            cv2.line(canvas, (x, y), (other_x, other_y), 255, 1)
        drawn = as_pixels(canvas)
        return Annotation(drawn, {"num_lines": len(lines), "empty": not drawn.any()})
