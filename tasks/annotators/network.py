"""Annotators that are networks: batches of tensors padded to what the network needs, and cut back afterwards.

Shapes: B images, C channels, H and W of the image, P and Q the padded height and width.
"""

import contextlib
import io
import os
import threading
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from pydantic import PositiveInt

from controlmill.config.base import Options
from storage.weights.reference import FoundWeights, WeightsFile
from storage.weights.tensors import read_tensors
from tasks.annotators.base import Annotation, Annotator, Resources
from tasks.annotators.checkpoint import fill
from tasks.images.types import Pixels

if TYPE_CHECKING:
    from torch import Tensor, nn

# The repository that all of these networks' authors' files were collected in, at its only commit with all of them.
REPOSITORY: Final = "lllyasviel/Annotators"
REVISION: Final = "982e7edaec38759d914a963c48c4726685de7d96"


def annotators_file(filename: str, sha256: str) -> WeightsFile:
    """A file of the repository that controlnet_aux takes its weights from."""
    return WeightsFile(REPOSITORY, filename, REVISION, sha256)


class NetworkOptions(Options):
    """What every annotator with a network takes."""

    weights: str | None = None
    """File of weights, or folder of such files, instead of the published ones."""
    batch_size: PositiveInt | None = None
    """Images that go through the network at once; by default what suits the network."""


class NetworkAnnotator(Annotator):
    """An annotator around a network; one thread at a time is in it."""

    resources: ClassVar[Resources] = Resources(num_cpus=1.0, num_gpus=0.25, memory_bytes=3 * 1024**3)
    batch_size: ClassVar[int] = 8
    libraries: ClassVar[tuple[str, ...]] = ("torch", "controlnet_aux")
    not_in_recipe: ClassVar[frozenset[str]] = frozenset({"weights", "batch_size"})
    options: NetworkOptions
    network: Any
    """The network on the device; there after `setup`."""

    def __init__(self, options: NetworkOptions, seed: int = 0) -> None:
        super().__init__(options, seed)
        if options.batch_size is not None:
            self.batch_size = options.batch_size  # type: ignore[misc]  # its class has the default

    def __getstate__(self) -> dict[str, Any]:
        """Without the network."""
        state = super().__getstate__()
        return {**state, "batch_size": self.batch_size}

    @abstractmethod
    def build(self, found: Sequence[FoundWeights]) -> "nn.Module":
        """The network with the weights `found`, on the CPU; `loaded` does the loading."""

    @abstractmethod
    def work(self, images: Sequence[Pixels]) -> list[Annotation]:
        """Annotate RGB images of one size; nothing keeps gradients, and no other thread is here."""

    def setup(self, device: str = "cpu") -> None:
        """Load the weights onto the device."""
        import cv2
        import torch

        cv2.setNumThreads(1)
        # the same images and batches give the same maps on the same device
        torch.backends.cudnn.deterministic = True
        found = self.find_weights()
        with foreign_imports():
            network = self.build(found)
        self.network = network.float().eval().requires_grad_(requires_grad=False).to(device)
        self.device = torch.device(device)
        self._one_at_a_time = threading.Lock()

    def annotate(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[Annotation]:
        """One annotation per image, all of one size."""
        import torch

        del keys
        with self._one_at_a_time, torch.inference_mode():
            return self.work(images)


class PaddedNetworkAnnotator(NetworkAnnotator):
    """An annotator around a network that takes tensors (B, 3, P, Q) of images in their own size, padded."""

    multiple: ClassVar[int] = 1
    """Height and width that the network takes are multiples of this."""

    @abstractmethod
    def infer(self, padded_BCPQ: "Tensor", height: int, width: int) -> list[Annotation]:
        """Annotate a batch on the device: RGB float32 (B, 3, P, Q) of 0 to 255, padded from `height` and `width`."""

    def work(self, images: Sequence[Pixels]) -> list[Annotation]:
        """Annotate images of one size."""
        import torch

        height, width = images[0].shape[:2]
        batch_BHWC = torch.from_numpy(np.stack(images)).to(self.device)
        batch_BCHW = batch_BHWC.permute(0, 3, 1, 2).float()
        return self.infer(pad(batch_BCHW, self.multiple), height, width)


def pad(batch_BCHW: "Tensor", multiple: int) -> "Tensor":
    """Repeat the last row and column until height and width are multiples of `multiple`."""
    from torch.nn import functional

    height, width = batch_BCHW.shape[-2:]
    below, right = -height % multiple, -width % multiple
    if not (below or right):
        return batch_BCHW.contiguous()
    return functional.pad(batch_BCHW, (0, right, 0, below), mode="replicate")


def finite(values: "Tensor") -> "Tensor":
    """What a network gave, if all of it is numbers: what is none would become a blank map.

    Raises:
        ArithmeticError: some of it is infinite or not a number.
    """
    if not values.isfinite().all():
        raise ArithmeticError("the network's output is not finite")
    return values


def to_pixels(values: "Tensor") -> Pixels:
    """Values of 0 to 1 as 0 to 255, cut off as the annotators of ControlNet cut them off; on the CPU.

    Raises:
        ArithmeticError: some of them are not numbers.
    """
    import torch

    return np.asarray((finite(values) * 255.0).clamp(0, 255).to(torch.uint8).cpu().numpy(), dtype=np.uint8)


def loaded(network: "nn.Module", found: FoundWeights) -> "nn.Module":
    """The network with the weights of a file of its own format."""
    fill(network, read_tensors(found.path), found.path)
    return network


@contextlib.contextmanager
def foreign_imports() -> Iterator[None]:
    """Keep what controlnet_aux says and sets while it is imported and built to itself.

    It warns of parts that are not installed and not used here, imports names that its dependencies have renamed,
    prints, and sets KMP_DUPLICATE_LIB_OK for the whole process (open_pose/__init__.py).
    """
    before = os.environ.get("KMP_DUPLICATE_LIB_OK")
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            os.environ.pop("KMP_DUPLICATE_LIB_OK", None)
