"""What an annotator is: RGB images in, one map or one failure per image out, in the geometry of the image.

The author of an annotator writes a class with a name, a version, options and `annotate`; batches, failures, timing,
where weights are and the checks of what comes out are done here. CONTRIBUTING.md has the five steps. One that is a
network derives from `tasks.annotators.network.NetworkAnnotator`.
"""

import importlib.metadata
import json
import re
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

import numpy as np
import pyarrow as pa

from controlmill.config.base import Options
from controlmill.errors import WeightsUnusableError
from controlmill.reasons import Reason, RowFailure
from storage.weights.reference import FoundWeights, WeightsFile
from storage.weights.resolve import resolve
from tasks.annotators.annotation import Annotation, checked
from tasks.annotators.batches import same_size
from tasks.device_errors import is_lost, is_out_of_memory, lost, too_large
from tasks.images.types import Pixels

__all__ = ["NAME", "Annotation", "Annotator", "Polarity", "Resources"]

Polarity = Literal["white_on_black", "black_on_white", "none"]

NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
"""What an annotator may be called."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What one worker of an annotator occupies."""

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory_bytes: int = 512 * 1024 * 1024
    needs_gpu: bool = False
    """Whether it cannot work without: a run that has none is refused at its start. Else it is on CPUs there."""

    def __post_init__(self) -> None:
        if self.num_gpus > 1 and self.num_gpus % 1:
            raise ValueError(f"num_gpus: {self.num_gpus:g}; above 1 it must be a whole number")


class Annotator(ABC):
    """A unit in three moments: construct (cheap, picklable), `setup` once per worker, call with batches.

    It knows nothing of the engine that runs it. One instance may be called by several threads.
    """

    name: str
    """Name of the layer, lower case: letters, digits and underscores; an instance may carry another than its class."""
    version: ClassVar[str]
    """Raised when the same image and options give another map; layers of the old version are then made again."""
    options_model: ClassVar[type[Options]]
    """The options that `annotator_options.<name>` is checked against."""
    resources: ClassVar[Resources] = Resources()
    batch_size: ClassVar[int] = 1
    """Images of one size that `annotate` is given at once at most."""
    channels: ClassVar[Literal[1, 3]] = 1
    polarity: ClassVar[Polarity] = "none"
    flags: ClassVar[tuple[str, ...]] = ()
    """Boolean columns that are counted in the commit record."""
    weights: ClassVar[tuple[WeightsFile, ...]] = ()
    """Every file of weights that it may need."""
    not_in_recipe: ClassVar[frozenset[str]] = frozenset()
    """Options that do not change a map."""
    content: ClassVar[str] = "map"
    """What the values of a map are, where they are not what the polarity says: "class_ids"."""
    source_sha256: ClassVar[str | None] = None
    """Hash of the user's file that it is in; set where it is loaded."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions that decide about its maps beside controlmill's own; their versions go into the commit record."""

    def __init__(self, options: Options, seed: int = 0) -> None:
        self.options = options
        self.seed = seed
        self._durations_s: list[float] = []
        self._found: list[FoundWeights] | None = None
        self._expected: dict[str, str] = {}
        self._fitting = sys.maxsize

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name = getattr(cls, "name", "")
        if name and not NAME.fullmatch(name):
            raise TypeError(f"{cls.__name__}.name: {name!r} is not lower-case letters, digits and underscores")

    @abstractmethod
    def annotate(self, images: Sequence[Pixels], keys: Sequence[str]) -> Sequence[Annotation]:
        """Make one annotation per image; all images of a call have the same size. May raise anything.

        Other annotators work on the same pixels: they must not be written to, and with a network they cannot be.

        `keys` are the rows' keys, for what is drawn per row: from (seed, key), never from global state.
        """

    def setup(self, device: str = "cpu") -> None:
        """Load weights, once per worker; `device` is as torch writes it ("cpu", "cuda:0")."""
        # an annotator without weights has nothing to do here
        del device

    def needed_weights(self) -> tuple[WeightsFile, ...]:
        """The files of weights that it needs with these options."""
        return self.weights

    def versions(self) -> dict[str, str]:
        """Versions of `libraries`."""
        return {name: importlib.metadata.version(name) for name in self.libraries}

    def find_weights(self) -> list[FoundWeights]:
        """Where its weights are on this machine, downloaded if need be; looked up once.

        Raises:
            WeightsMissingError: they are not there and cannot be had.
            WeightsUnusableError: they are not those that this annotator was sent to the worker with.
        """
        if self._found is None:
            needed = self.needed_weights()
            self._found = resolve(needed, getattr(self.options, "weights", None)) if needed else []
            for found in self._found:
                expected = self._expected.setdefault(str(found.file), found.sha256)
                if found.sha256 != expected:
                    raise WeightsUnusableError(
                        f"{self.name}: {found.path} has SHA-256 {found.sha256}, but the run was started with "
                        f"{expected}; all machines of a run need the same weights"
                    )
        return self._found

    def __getstate__(self) -> dict[str, Any]:
        """What travels to a worker: options, seed and the hashes of the weights, but no path and nothing loaded."""
        return {
            "name": self.name,
            "options": self.options,
            "seed": self.seed,
            "_durations_s": [],
            "_found": None,
            "_expected": self._expected,
            "_fitting": sys.maxsize,
        }

    @classmethod
    def columns(cls) -> list[pa.Field]:
        """Columns of the layer beside the map, flags included."""
        return [pa.field(flag, pa.bool_()) for flag in cls.flags]

    @classmethod
    def metadata(cls) -> dict[str, str]:
        """What a reader of the layer must know to use the map, for the Parquet schema."""
        order = "RGB" if cls.channels == 3 else "L"
        content = {} if cls.content == "map" else {"content": cls.content}
        return {"polarity": cls.polarity, "channels": str(cls.channels), "channel_order": order, **content}

    def recipe(self) -> dict[str, Any]:
        """What the map depends on besides image, name and version, as plain JSON values: options, seed, weights.

        Raises:
            WeightsMissingError: the weights are not on this machine and cannot be had.
        """
        options: dict[str, Any] = json.loads(self.options.model_dump_json(exclude=set(self.not_in_recipe)))
        weights = {str(found.file): found.sha256 for found in self.find_weights()}
        source = {"source_sha256": self.source_sha256} if self.source_sha256 else {}
        return {**options, "seed": self.seed, **({"weights": weights} if weights else {}), **source}

    def take_busy_s(self) -> float:
        """Seconds spent in `annotate`, over all threads, since the last time this was asked."""
        spent, self._durations_s = self._durations_s, []
        return sum(spent)

    def __call__(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[Annotation | RowFailure]:
        """Annotate RGB uint8 (H, W, 3) images of any sizes; one result per image, in order, failures as values.

        Images of one size are worked on together, at most `batch_size` of them in the order they come. The same
        images in the same calls give the same maps; where a network rounds differently for another size of the batch,
        a map may differ from that of the image alone by one in the last place.

        Raises:
            MemoryError: one image alone is too large for what is free of the memory.
            DeviceLostError: the GPU cannot be used by this process any more.
        """
        results: dict[int, Annotation | RowFailure] = {
            index: RowFailure(
                Reason.ANNOTATOR_ERROR, f"the image is {image.dtype} of shape {image.shape}, not RGB uint8 (H, W, 3)"
            )
            for index, image in enumerate(images)
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3
        }
        waiting = deque(self._batches(images, results))
        while waiting:
            batch = waiting.popleft()
            fits = len(batch) <= self._fitting
            made = self._annotate_batch(images, keys, batch) if fits else self._fitting
            if isinstance(made, int):
                _release_device_memory()
                waiting.extendleft(reversed([batch[start : start + made] for start in range(0, len(batch), made)]))
            else:
                results.update(zip(batch, made, strict=True))
        return [results[index] for index in range(len(images))]

    def _batches(self, images: Sequence[Pixels], refused: Collection[int]) -> list[list[int]]:
        """Indices of images of equal size, in batches."""
        sizes = {index: image.shape for index, image in enumerate(images) if index not in refused}
        return same_size(sizes, min(self.batch_size, self._fitting))

    def _annotate_batch(
        self, images: Sequence[Pixels], keys: Sequence[str], batch: list[int]
    ) -> list[Annotation | RowFailure] | int:
        """The results of a batch, or the size of the smaller ones to try instead."""
        started_s = time.perf_counter()
        try:
            made = self.annotate([images[index] for index in batch], [keys[index] for index in batch])
            given = [images[index] for index in batch]
            return checked(made, given, name=self.name, channels=self.channels, columns=self.columns())
        except Exception as error:
            # one row's edge: the unit may be anybody's code; but the machine's trouble is not the image's
            if is_lost(error):
                raise lost(self.name, error) from error
            is_alone = len(batch) == 1
            if is_out_of_memory(error):
                if is_alone:
                    raise too_large(self.name, images[batch[0]].shape, error) from error
                self._fitting = len(batch) // 2
                return self._fitting
            # one of them spoils the batch: each by itself shows which
            return [_failure(error)] if is_alone else 1
        finally:
            self._durations_s.append(time.perf_counter() - started_s)


def _failure(error: Exception) -> RowFailure:
    return RowFailure(Reason.ANNOTATOR_ERROR, f"{type(error).__name__}: {' '.join(str(error).split())}")


def _release_device_memory() -> None:
    """Give back what torch keeps for later: the halves of a batch need blocks of other sizes."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
