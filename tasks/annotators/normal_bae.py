"""Surface normals by a network trained for them.

Bae et al., "Estimating and Exploiting the Aleatoric Uncertainty in Surface Normal Estimation", 2021, on ScanNet: the
weights that ControlNet 1.1's normal model was trained with.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from controlmill.config.base import Options
from storage.weights.reference import FoundWeights, WeightsFile
from tasks.annotators.base import Annotation, Resources
from tasks.annotators.network import NetworkOptions, PaddedNetworkAnnotator, annotators_file, loaded, to_pixels

if TYPE_CHECKING:
    from torch import Tensor, nn

NORMAL_BAE_WEIGHTS: Final = annotators_file(
    "scannet.pt", "03dbf1600c51ee3d45c29f77b77bf1a3b7a24c3452dba62a4ae658f37330c209"
)
# of ImageNet, on which the encoder was trained
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class NormalBae(PaddedNetworkAnnotator):
    """Surface normals in ScanNet's colours: red, green and blue are x, y and z of -1 to 1.

    The flag `flat` says that every pixel has the same normal.
    """

    name = "normal_bae"
    version: ClassVar[str] = "1"
    options_model: ClassVar[type[Options]] = NetworkOptions
    resources: ClassVar[Resources] = Resources(num_cpus=1.0, num_gpus=0.25, memory_bytes=4 * 1024**3)
    channels: ClassVar[Literal[1, 3]] = 3
    content: ClassVar[str] = "normals_xyz"
    flags: ClassVar[tuple[str, ...]] = ("flat",)
    weights: ClassVar[tuple[WeightsFile, ...]] = (NORMAL_BAE_WEIGHTS,)
    # the encoder halves five times
    multiple: ClassVar[int] = 32

    def build(self, found: Sequence[FoundWeights]) -> "nn.Module":
        """The network of the paper, EfficientNet-B5 and a decoder."""
        from controlnet_aux.normalbae.nets.NNET import NNET

        # the ratios choose training samples; nothing of them is in the weights
        return loaded(NNET(SimpleNamespace(architecture="BN", sampling_ratio=0.4, importance_ratio=0.7)), found[0])

    def infer(self, padded_BCPQ: "Tensor", height: int, width: int) -> list[Annotation]:
        """Normals of each image."""
        mean, std = (padded_BCPQ.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
        normal_B3PQ = self.network((padded_BCPQ / 255.0 - mean) / std)[0][-1][:, :3]
        share_B3HW = ((normal_B3PQ[:, :, :height, :width] + 1) * 0.5).clamp(0, 1)
        maps = to_pixels(share_B3HW.permute(0, 2, 3, 1))
        return [Annotation(one, {"flat": bool((one == one[0, 0]).all())}) for one in maps]
