"""Depth and normals by MiDaS.

Ranftl et al., "Vision Transformers for Dense Prediction", 2021: DPT-Hybrid, the weights that ControlNet's depth and
normal models were trained with. The network gives inverse depth of unknown scale and offset.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from controlmill.config.base import Options
from storage.weights.reference import FoundWeights, WeightsFile
from tasks.annotators.base import Annotation, Resources
from tasks.annotators.network import NetworkOptions, PaddedNetworkAnnotator, annotators_file, finite, loaded, to_pixels
from tasks.images.types import Pixels, as_pixels

if TYPE_CHECKING:
    from torch import Tensor, nn

MIDAS_WEIGHTS: Final = annotators_file(
    "dpt_hybrid-midas-501f0c75.pt", "501f0c75b3bca7daec6b3682c5054c09b366765aef6fa3a09d03a5cb4b230853"
)
_LARGEST = float(np.finfo(np.float16).max)

# controlnet_aux keeps the activations of every DPT of the process in one dictionary (midas/midas/vit.py: activations)
_ONE_AT_A_TIME = threading.Lock()


class MidasOptions(NetworkOptions):
    """What is kept of the depth."""

    raw_depth: bool = True
    """Keep the network's inverse depth beside the map: half precision, two bytes a pixel."""


class NormalMidasOptions(NetworkOptions):
    """How normals are drawn from depth."""

    strength: float = Field(default=2 * math.pi, gt=0)
    """Length of the normal's part towards the viewer: the smaller, the steeper everything looks."""
    background_threshold: float = Field(default=0.1, ge=0, le=1)
    """Normals of pixels that are in this farthest share of the depth range look straight at the viewer."""


@dataclass(frozen=True, slots=True)
class _Depth:
    """Inverse depth of a batch; all float32."""

    depth_BHW: "Tensor"
    share_BHW: "Tensor"
    """Stretched to 0 (farthest) to 1 (nearest) of each image; 0 where it is flat."""
    far_B: "Tensor"
    near_B: "Tensor"


class _Dpt(PaddedNetworkAnnotator):
    """DPT-Hybrid."""

    resources: ClassVar[Resources] = Resources(num_cpus=1.0, num_gpus=0.25, memory_bytes=4 * 1024**3)
    flags: ClassVar[tuple[str, ...]] = ("flat",)
    weights: ClassVar[tuple[WeightsFile, ...]] = (MIDAS_WEIGHTS,)
    libraries: ClassVar[tuple[str, ...]] = ("torch", "controlnet_aux", "timm")
    # tokens of 16 pixels, whose grid is halved once
    multiple: ClassVar[int] = 32

    def build(self, found: Sequence[FoundWeights]) -> "nn.Module":
        """DPT-Hybrid."""
        from controlnet_aux.midas.midas.dpt_depth import DPTDepthModel

        return loaded(DPTDepthModel(path=None, backbone="vitb_rn50_384", non_negative=True), found[0])

    def depth(self, padded_BCPQ: "Tensor", height: int, width: int) -> _Depth:
        """Depth of a batch, cut back to its images."""
        with _ONE_AT_A_TIME:
            depth_BPQ = self.network(padded_BCPQ / 127.5 - 1.0)
        depth_BHW = finite(depth_BPQ[:, :height, :width])
        far_B, near_B = depth_BHW.amin(dim=(1, 2)), depth_BHW.amax(dim=(1, 2))
        share_BHW = depth_BHW - far_B[:, None, None]
        # the same two steps as controlnet_aux, whose division of zero by zero becomes zero here
        range_B = share_BHW.amax(dim=(1, 2))
        share_BHW = share_BHW / range_B.masked_fill(range_B == 0, 1.0)[:, None, None]
        return _Depth(depth_BHW, share_BHW, far_B, near_B)


class Midas(_Dpt):
    """Inverse depth, stretched from the farthest (black) to the nearest (white) of each image.

    `depth` holds what the network gave, before it was stretched: float16, little-endian, row by row, height and width
    of the image. `near` and `far` are the values that became white and black. The flag `flat` says that they are the
    same, and the map is black.
    """

    name = "midas"
    version: ClassVar[str] = "1"
    options_model: ClassVar[type[Options]] = MidasOptions
    content: ClassVar[str] = "inverse_depth"
    options: MidasOptions

    @classmethod
    def columns(cls) -> list[pa.Field]:
        """The range of the depth, whether it is flat, and the depth."""
        values = [pa.field("near", pa.float32()), pa.field("far", pa.float32())]
        return [*values, *super().columns(), pa.field("depth", pa.binary())]

    def infer(self, padded_BCPQ: "Tensor", height: int, width: int) -> list[Annotation]:
        """Depth of each image."""
        found = self.depth(padded_BCPQ, height, width)
        maps, depths = to_pixels(found.share_BHW), found.depth_BHW.cpu().numpy()
        ranges = zip(found.near_B.tolist(), found.far_B.tolist(), strict=True)
        return [
            Annotation(one, {"near": near, "far": far, "flat": near == far, "depth": self._raw(depth)})
            for one, depth, (near, far) in zip(maps, depths, ranges, strict=True)
        ]

    def _raw(self, depth: NDArray[Any]) -> bytes | None:
        return np.minimum(depth, _LARGEST).astype("<f2").tobytes() if self.options.raw_depth else None


class NormalMidas(_Dpt):
    """Surface normals of MiDaS's depth: red towards the viewer, green down, blue right.

    The flag `flat` says that the depth is the same everywhere.
    """

    name = "normal_midas"
    version: ClassVar[str] = "1"
    options_model: ClassVar[type[Options]] = NormalMidasOptions
    channels: ClassVar[Literal[1, 3]] = 3
    content: ClassVar[str] = "normals_zyx"
    options: NormalMidasOptions

    def infer(self, padded_BCPQ: "Tensor", height: int, width: int) -> list[Annotation]:
        """Normals of each image."""
        found = self.depth(padded_BCPQ, height, width)
        flats = (found.near_B == found.far_B).tolist()
        pairs = zip(found.depth_BHW.cpu().numpy(), found.share_BHW.cpu().numpy(), flats, strict=True)
        strength, threshold = self.options.strength, self.options.background_threshold
        return [Annotation(normals(depth, share, strength, threshold), {"flat": flat}) for depth, share, flat in pairs]


def normals(depth: NDArray[np.float32], share: NDArray[np.float32], strength: float, threshold: float) -> Pixels:
    """Normals (H, W, 3) of inverse depth (H, W) by Sobel, as ControlNet's `normal_midas` draws them.

    Args:
        depth: as the network gave it.
        share: the same, stretched to 0 to 1.
        strength: length of the part towards the viewer.
        threshold: where `share` is smaller, the normal looks straight at the viewer.
    """
    across = cv2.Sobel(depth, cv2.CV_32F, 1, 0, ksize=3)
    down = cv2.Sobel(depth, cv2.CV_32F, 0, 1, ksize=3)
    background = share < threshold
    across[background] = 0
    down[background] = 0
    normal = np.stack([across, down, np.full_like(across, strength)], axis=2)
    normal = normal / np.sqrt((normal**2).sum(axis=2, keepdims=True))
    # the order that ControlNet was trained on: what OpenCV would call BGR, in an RGB picture
    return as_pixels((normal * 127.5 + 127.5).clip(0, 255).astype(np.uint8)[:, :, ::-1])
