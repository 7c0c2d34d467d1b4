"""Controllability measured: images are generated for held-out rows, read back, and scored against their own hint.

What reads them back is handed in, because training knows no annotators. Everything that is drawn is a function of the
seed and a row's key; ranks share the rows, and every rank gets the same numbers.
Legend: N rows, B rows of a chunk, C channels, H W latent height and width.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from controlmill.errors import ControlmillError, ReadBackError
from storage.filesystem import one_line
from storage.stored_image import Pixels
from training.base_model import BaseModel
from training.batch import Batch, PromptEmbeddings
from training.controllability import SCORES
from training.controllability_result import Baseline, Controllability, Reading
from training.pictures import as_pixels
from training.probe_rows import derangement
from training.reader.assemble import Picture
from training.reader.reader import ShardReader
from training.sample import Control, Denoising, Sampling, encode_negative

NUM_SHOWN = 8
"""Rows that are kept as pictures."""


class ReadBack(Protocol):
    """The annotator that made a layer; pickled, it is small."""

    score: str
    """Which of `training.controllability.SCORES` compares its maps."""

    def check(self) -> None:
        """Have its weights on this machine; raise `ControlmillError` where they are not to be had."""

    def __call__(self, images: Sequence[Pixels], keys: Sequence[str], device: str) -> Sequence[Any]:
        """What the layer would hold of RGB uint8 (height, width, 3) images; may raise anything."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Held-out rows, the same on every rank, on the CPU."""

    batch: Batch
    """Their hints and prompts."""
    pictures: Sequence[Picture]
    """Their images and maps."""
    conditions: tuple[str, ...]
    """Layers that the maps of a picture are of."""
    others: tuple[int, ...]
    """For each row the one whose hint it is compared with besides, never itself."""

    @classmethod
    def of(cls, reader: ShardReader, conditions: Sequence[str], num_rows: int, seed: int) -> "Rows":
        """The first rows that a reader holds out, with counterparts that stay the same for the whole run."""
        others = tuple(derangement(num_rows, seed, 0).tolist())
        return cls(reader.held_out(num_rows), reader.held_out_pictures(num_rows), tuple(conditions), others)

    def maps_of(self, layer: str) -> list[Any]:
        """The maps of a layer."""
        position = self.conditions.index(layer)
        return [picture.maps[position] for picture in self.pictures]


@dataclass(frozen=True, slots=True)
class Share:
    """What a rank does of the work, and how it is put together."""

    rank: int = 0
    world_size: int = 1
    chunk_size: int = 4
    """Rows that go through the networks at once; all chunks are of this size."""
    sum_over_ranks: Callable[[Tensor], Tensor] = lambda values: values
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    generated: Callable[[int], None] = lambda _: None
    """Told how many images this rank has generated."""

    def chunks(self, num_rows: int) -> list[list[int]]:
        """The rows of this rank; some again, so that all ranks have as many chunks, and all chunks as many rows."""
        num_each = -(-num_rows // self.world_size)
        size = min(self.chunk_size, num_each)
        numbers = [self.rank + self.world_size * turn for turn in range(-(-num_each // size) * size)]
        return [[row % num_rows for row in numbers[start : start + size]] for start in range(0, len(numbers), size)]

    def own(self, num_rows: int) -> list[int]:
        """The rows that count here, and on no other rank."""
        return list(range(self.rank, num_rows, self.world_size))


@dataclass(frozen=True, slots=True)
class Measured:
    """One set of images read back."""

    readings: Mapping[str, Reading]
    """By layer."""
    shown: tuple[Pixels, ...]
    """The first images."""


def compared(measured: Measured, baseline: Baseline, read_backs: Mapping[str, ReadBack]) -> list[Controllability]:
    """The measurement of each condition, beside what does not change."""
    return [
        Controllability(layer, SCORES[read_backs[layer].score], reading, baseline.off[layer], baseline.real[layer])
        for layer, reading in measured.readings.items()
    ]


def measure_baseline(
    base: BaseModel, rows: Rows, read_backs: Mapping[str, ReadBack], sampling: Sampling, share: Share
) -> Baseline:
    """Images of the base alone, and the stored images, read back; for the arguments see `measure`.

    Raises:
        ReadBackError: images could not be read back, on every rank alike.
    """
    off = measure(base, None, rows, read_backs, sampling, share)
    return Baseline(off.readings, measure_real(base, rows, read_backs, share))


def measure_real(base: BaseModel, rows: Rows, read_backs: Mapping[str, ReadBack], share: Share) -> Mapping[str, float]:
    """Mean score of the stored images by layer."""
    images = {row: rows.pictures[row].pixels for row in share.own(len(rows.batch))}
    readings = _read_back(images, rows, read_backs, share, base.device)
    return {layer: fmean(reading.own) for layer, reading in readings.items()}


def measure(
    base: BaseModel,
    control: Control | None,
    rows: Rows,
    read_backs: Mapping[str, ReadBack],
    sampling: Sampling,
    share: Share,
) -> Measured:
    """Generate an image for each row and read it back; every rank calls it.

    Args:
        base: parts that it lacks are loaded for as long as they are needed.
        control: called as the ControlNets, in evaluation mode; None for images without control.
        rows: the same on every rank.
        read_backs: by condition; conditions without one are not scored.
        sampling: how images are generated; a row's depends on the seed and its key only.
        share: of this rank.

    Raises:
        ReadBackError: images could not be read back, on every rank alike.
    """
    images = _generated(base, control, rows.batch, sampling, share)
    readings = _read_back(images, rows, read_backs, share, base.device)
    shape = rows.pictures[0].pixels.shape
    shown = torch.zeros((min(NUM_SHOWN, len(rows.batch)), *shape), dtype=torch.uint8)
    for row, pixels in images.items():
        if row < len(shown):
            shown[row] = torch.from_numpy(pixels)
    summed = share.sum_over_ranks(shown.to(base.device)).cpu().numpy()
    return Measured(readings, tuple(summed))


@torch.no_grad()
def _generated(
    base: BaseModel, control: Control | None, batch: Batch, sampling: Sampling, share: Share
) -> dict[int, Pixels]:
    """Images of the rows of this rank by their number."""
    own, images = set(share.own(len(batch))), {}
    needs_text = batch.embeddings is None or sampling.is_guided
    with base.borrowed(*(("text",) if needs_text else ())):
        embeddings = batch.embeddings or base.encode_prompts(batch.prompts)
        empty = encode_negative(base, [""]) if sampling.is_guided else embeddings
    with base.borrowed("vae"):
        for rows in share.chunks(len(batch)):
            hints = [hint[rows].to(base.device) for hint in batch.hints]
            keys = [batch.keys[row] for row in rows]
            positive, negative = _taken(embeddings, rows), _taken(empty, [0] * len(rows))
            # as the probe does: frozen networks in half precision need no autocast
            with share.autocast() if base.unet.dtype == torch.float32 else nullcontext():
                latents_BCHW = Denoising(base, control, hints, sampling).latents(
                    positive.to(base.device), negative.to(base.device), keys, base.device
                )
            for row, latents_CHW in zip(rows, latents_BCHW, strict=True):
                if row in own and row not in images:
                    images[row] = as_pixels(base.decode_latents(latents_CHW[None])[0].cpu())
            share.generated(len(images))
    return images


def _taken(embeddings: PromptEmbeddings, rows: list[int]) -> PromptEmbeddings:
    pooled_BD = embeddings.pooled_BD
    return PromptEmbeddings(embeddings.hidden_BLD[rows], None if pooled_BD is None else pooled_BD[rows])


def _read_back(
    images: Mapping[int, Pixels], rows: Rows, read_backs: Mapping[str, ReadBack], share: Share, device: torch.device
) -> dict[str, Reading]:
    """Scores of all rows, of which this rank has read back its own."""
    num_rows = len(rows.batch)
    scores = torch.zeros(len(read_backs), 2, num_rows, dtype=torch.float64)
    trouble = ""
    try:
        for number, (layer, read_back) in enumerate(read_backs.items()):
            wanted = rows.maps_of(layer)
            keys = [rows.batch.keys[row] for row in images]
            made = read_back(list(images.values()), keys, str(device)) if images else []
            for row, read in zip(images, made, strict=True):
                for side, compared_with in enumerate((row, rows.others[row])):
                    scores[number, side, row] = SCORES[read_back.score].of(read, wanted[compared_with])
    # an annotator may be anybody's code, and other ranks wait for what this one adds
    except Exception as error:  # noqa: BLE001
        trouble = str(error) if isinstance(error, ControlmillError) else f"{type(error).__name__}: {one_line(error)}"
    sums = torch.cat([scores.flatten(), torch.tensor([float(bool(trouble))], dtype=torch.float64)]).to(device)
    summed = share.sum_over_ranks(sums).cpu()
    if summed[-1]:
        raise ReadBackError(f"images could not be read back: {trouble or 'on another worker'}")
    table = summed[:-1].view_as(scores).tolist()
    return {layer: Reading(tuple(own), tuple(other)) for layer, (own, other) in zip(read_backs, table, strict=True)}


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Leave random numbers and settings that annotators and libraries change as they were."""
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 the global state, to put it back
    cudnn, threads = torch.backends.cudnn, cv2.getNumThreads()
    flags = cudnn.deterministic, cudnn.benchmark
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        cudnn.deterministic, cudnn.benchmark = flags
        cv2.setNumThreads(threads)
