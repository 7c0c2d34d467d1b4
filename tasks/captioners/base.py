"""What a captioner is: RGB images in, one caption or one failure per image out.

A captioner of this process is called with pixels. One that lives in an interpreter of its own only says here what it
is; `flows.captioning` has it started there and hands it encoded images.
"""

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from controlmill.config import CaptionOptions
from controlmill.reasons import Reason, RowFailure
from tasks.device_errors import is_lost, is_out_of_memory, lost, too_large
from tasks.images.types import Pixels

LAYER = "caption"
"""The layer that captioners make."""


@dataclass(frozen=True, slots=True)
class CaptionModel:
    """The weights of a captioner, found and hashed."""

    reference: str
    """What the layer calls it: the name of its folder or repository, never a path of this machine."""
    path: str
    """Folder on this machine."""
    sha256: str
    """Hash of the hashes of all files that decide about captions: what a layer is recognised by."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each of them, by the name of repository or folder and file."""
    commits: Mapping[str, str] = field(default_factory=dict)
    """Commit of the repository that a file is of, where that is known."""

    @property
    def label(self) -> str:
        """The value of the column `model`."""
        return f"{self.reference}@sha256:{self.sha256[:12]}"


class Captioner(ABC):
    """What every captioner declares, wherever it runs; constructing one is cheap and it can be pickled."""

    name: ClassVar[str]
    """Value of the option `captioner`."""
    version: ClassVar[str]
    """Raised when the same image, weights and options give another caption; the layer is then made again."""
    num_cpus: ClassVar[float] = 4.0
    """CPUs of one actor where there is no GPU, at most: more of them are more actors."""
    num_gpus: ClassVar[float] = 1.0
    """GPUs of one actor where there are some; less where other networks need them at the same time."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions belong into the commit record."""

    def __init__(self, options: CaptionOptions, model: CaptionModel) -> None:
        self.options = options
        self.model = model

    def remembered_options(self) -> dict[str, Any]:
        """The options as plain JSON values, from which the same captioner can be made again on this machine."""
        is_folder = Path(self.options.model).expanduser().is_dir()
        model = self.model.path if is_folder else self.options.model
        return {**self.options.model_dump(mode="json", include=set(CaptionOptions.model_fields)), "model": model}

    def recipe(self) -> dict[str, Any]:
        """What a caption depends on besides image, name and version, as plain JSON values.

        How rows are put into batches is not in it: it changes a caption only where rounding decides between two words.
        """
        options = self.options
        recipe: dict[str, Any] = {
            "prompt": options.prompt,
            "max_new_tokens": options.max_new_tokens,
            "min_new_tokens": options.min_new_tokens,
            "weights": {"reference": self.model.reference, "sha256": self.model.sha256},
        }
        if options.do_sample:
            drawn = {"top_p": options.top_p, "temperature": options.temperature, "seed": options.seed}
            return {**recipe, **drawn, "do_sample": True}
        return {**recipe, "num_beams": options.num_beams}


class LocalCaptioner(Captioner):
    """A captioner of the main environment: `setup` once per worker, then call with batches.

    It knows nothing of the engine that runs it. One thread calls it at a time.
    """

    @abstractmethod
    def setup(self, device: str = "cpu") -> None:
        """Load the weights; `device` is as torch writes it ("cpu", "cuda:0")."""

    @abstractmethod
    def caption(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[str]:
        """One caption per RGB uint8 (H, W, 3) image, of any sizes. May raise anything.

        `keys` are the rows' keys, for what is drawn per row: from (seed, key), never from global state.
        """

    def versions(self) -> dict[str, str]:
        """Versions of `libraries`."""
        return {name: importlib.metadata.version(name) for name in self.libraries}

    def __call__(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[str | RowFailure]:
        """One caption or failure per image, in order.

        A batch that fails, or is too large for the GPU, is tried again in halves, so that one bad image is one row's
        failure.

        Raises:
            MemoryError: one image alone is too large for what is free of the memory.
            DeviceLostError: the GPU cannot be used by this process any more.
        """
        results: list[str | RowFailure | None] = [_refusal(image) for image in images]
        good = [index for index, refused in enumerate(results) if refused is None]
        made = self._caption([images[index] for index in good], [keys[index] for index in good])
        for index, one in zip(good, made, strict=True):
            results[index] = one
        return [one for one in results if one is not None]

    def _caption(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[str | RowFailure]:
        if not images:
            return []
        try:
            made = self.caption(images, keys)
        except Exception as error:
            # one row's edge: the network may meet anything; but the machine's trouble is not the image's
            if is_lost(error):
                raise lost(self.name, error) from error
            if len(images) == 1:
                if is_out_of_memory(error):
                    raise too_large(self.name, images[0].shape, error) from error
                return [_failure(error)]
        else:
            if len(made) == len(images):
                return list(made)
            text = f"{self.name}: {len(made)} captions of {len(images)} images"
            return [RowFailure(Reason.CAPTIONER_ERROR, text)] * len(images)
        half = len(images) // 2
        return self._caption(images[:half], keys[:half]) + self._caption(images[half:], keys[half:])


def _refusal(image: Pixels) -> RowFailure | None:
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return None
    text = f"the image is {image.dtype} of shape {image.shape}, not RGB uint8 (H, W, 3)"
    return RowFailure(Reason.CAPTIONER_ERROR, text)


def _failure(error: Exception) -> RowFailure:
    return RowFailure(Reason.CAPTIONER_ERROR, f"{type(error).__name__}: {' '.join(str(error).split())}")
