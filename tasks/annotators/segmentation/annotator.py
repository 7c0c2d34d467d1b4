"""Semantic segmentation by transformers' UperNet or Mask2Former.

Xiao et al., "Unified Perceptual Parsing for Scene Understanding", 2018; Cheng et al., "Masked-attention Mask
Transformer for Universal Image Segmentation", 2022; Zhou et al., "Scene Parsing through ADE20K Dataset", 2017.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import pyarrow as pa
from pydantic import Field

from controlmill.config.base import Options
from controlmill.errors import WeightsUnusableError
from storage.weights.reference import FoundWeights, WeightsFile
from storage.weights.tensors import read_tensors
from tasks.annotators.base import Annotation, Resources
from tasks.annotators.network import NetworkOptions, PaddedNetworkAnnotator, finite
from tasks.annotators.segmentation.palette import NUM_CLASSES
from tasks.images.types import as_pixels

if TYPE_CHECKING:
    from torch import Tensor, nn

DEFAULT_MODEL: Final = "openmmlab/upernet-convnext-small"
# what a branch points to may change: this commit is the last of the four that `main` has
_DEFAULT_REVISION: Final = "550b68d291f9a7e4874065c6eec0676b2ba821e6"
_DEFAULT_FILE: Final = "pytorch_model.bin"
_DEFAULT_SHA256: Final = "76c163aa531ab7edfb3a77bbcc039e340645aa0ffe2b0ffcfc68755f550c76ea"
# of ImageNet, on which the backbones were trained
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class SegmentationOptions(NetworkOptions):
    """Which network."""

    model: str = Field(default=DEFAULT_MODEL, pattern=r"^[^/\s]+/[^/\s]+$")
    """Repository of an UperNet or Mask2Former with ADE20K's 150 classes, as owner/name."""
    revision: str = "main"
    """Commit, tag or branch of the repository; main of the default model stands for a fixed commit."""


def model_files(repository: str, revision: str) -> tuple[WeightsFile, ...]:
    """The files of a repository of transformers that a network is made from; those of the default model are pinned."""
    if (repository, revision) == (DEFAULT_MODEL, "main"):
        revision = _DEFAULT_REVISION
    config = WeightsFile(repository, "config.json", revision, unique_name=False)
    if (repository, revision) == (DEFAULT_MODEL, _DEFAULT_REVISION):
        pinned = replace(config, filename=_DEFAULT_FILE, sha256=_DEFAULT_SHA256, or_else="model.safetensors")
        return config, pinned
    return config, replace(config, filename="model.safetensors", or_else=_DEFAULT_FILE)


class Segmentation(PaddedNetworkAnnotator):
    """The class of every pixel: ids 0 to 149 in the order of ADE20K's benchmark, not colours.

    `tasks.annotators.segmentation.palette.draw_classes` draws the colours. `num_classes` is how many there are in the
    image; the flag `uniform` says that it is one.
    """

    name = "segmentation"
    version: ClassVar[str] = "1"
    options_model: ClassVar[type[Options]] = SegmentationOptions
    resources: ClassVar[Resources] = Resources(num_cpus=1.0, num_gpus=0.25, memory_bytes=4 * 1024**3)
    batch_size: ClassVar[int] = 4
    content: ClassVar[str] = "class_ids"
    flags: ClassVar[tuple[str, ...]] = ("uniform",)
    weights: ClassVar[tuple[WeightsFile, ...]] = model_files(DEFAULT_MODEL, "main")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    # backbones of both end at a 32nd
    multiple: ClassVar[int] = 32
    options: SegmentationOptions

    @classmethod
    def columns(cls) -> list[pa.Field]:
        """How many classes, and whether it is one."""
        return [pa.field("num_classes", pa.int32()), *super().columns()]

    @classmethod
    def metadata(cls) -> dict[str, str]:
        """With the name of the classes."""
        return {**super().metadata(), "classes": "ade20k"}

    def needed_weights(self) -> tuple[WeightsFile, ...]:
        """Those of the chosen model."""
        return model_files(self.options.model, self.options.revision)

    def build(self, found: Sequence[FoundWeights]) -> "nn.Module":
        """The network that the model's configuration describes."""
        from transformers import AutoConfig, Mask2FormerForUniversalSegmentation, UperNetForSemanticSegmentation
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        config_file, weights_file = found
        config = AutoConfig.from_pretrained(config_file.path, local_files_only=True)
        kinds: dict[str, Any] = {
            "upernet": UperNetForSemanticSegmentation,
            "mask2former": Mask2FormerForUniversalSegmentation,
        }
        if config.model_type not in kinds or config.num_labels != NUM_CLASSES:
            raise WeightsUnusableError(
                f"segmentation: {config_file.path} describes a {config.model_type} with {config.num_labels} classes, "
                f"not an upernet or mask2former with ADE20K's {NUM_CLASSES}"
            )
        network, info = kinds[config.model_type].from_pretrained(
            None, config=config, state_dict=read_tensors(weights_file.path), output_loading_info=True
        )
        wrong = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
        if wrong:
            raise WeightsUnusableError(f"weights: {weights_file.path} does not fit its config.json: {wrong[0]}")
        made: nn.Module = network
        return made

    def infer(self, padded_BCPQ: "Tensor", height: int, width: int) -> list[Annotation]:
        """Classes of each image."""
        mean, std = (padded_BCPQ.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
        output = self.network((padded_BCPQ / 255.0 - mean) / std)
        return [_annotation(output, number, padded_BCPQ.shape[2:], height, width) for number in range(len(padded_BCPQ))]


def _annotation(output: Any, number: int, padded: Sequence[int], height: int, width: int) -> Annotation:
    """One image at a time: 150 maps of its size are the largest things here."""
    scores_CPQ = finite(_scores(output, number, padded))[:, :height, :width]
    ids = as_pixels(scores_CPQ.argmax(dim=0).byte().cpu().numpy())
    num_classes = len(np.unique(ids))
    return Annotation(ids, {"num_classes": num_classes, "uniform": num_classes == 1})


def _scores(output: Any, number: int, padded: Sequence[int]) -> "Tensor":
    """Scores of the classes (150, P, Q) of one image of a batch."""
    from torch.nn import functional

    if hasattr(output, "logits"):
        # UperNet, already in the size of its input
        logits_CPQ: Tensor = output.logits[number]
        return logits_CPQ
    # every query is a class (the last: none) and a mask; Mask2Former, section 3.3
    classes_QC = output.class_queries_logits[number].softmax(dim=-1)[:, :-1]
    masks_1QPQ = functional.interpolate(
        output.masks_queries_logits[number][None], tuple(padded), mode="bilinear", align_corners=False
    )
    scores_CPQ: Tensor = (classes_QC.T @ masks_1QPQ[0].sigmoid().flatten(1)).unflatten(1, tuple(padded))
    return scores_CPQ
