"""Stored rows to a batch: decode, cut, mirror, drop prompts, stack. Runs in threads; what is slow leaves the GIL.

Shapes: B rows, C channels, H W latent height and width, L tokens, D embedding, T numbers of a time id.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from controlmill.config.training_data import PIXELS_PER_LATENT, TrainingDataOptions
from controlmill.errors import CorruptShardError
from storage.stored_image import Pixels, decode_stored
from training import draws
from training.batch import Batch, to_unit_range
from training.reader.geometry import Size, View, center_view, cut, plan_of, view_of
from training.reader.hints import HintKind
from training.reader.prompts import StoredPrompts
from training.reader.rows import StoredRow

_ValueT = TypeVar("_ValueT")


@dataclass(frozen=True, slots=True)
class Picture:
    """A held-out row as an annotator sees it."""

    pixels: Pixels
    """RGB uint8 (8H, 8W, 3), what the probe's view sees of the stored image."""
    maps: tuple[Any, ...]
    """For each condition what its annotator made of it, see `HintKind.as_made`."""


class Assembler:
    """Makes batches; has no state but its options, so threads share it."""

    def __init__(
        self,
        options: TrainingDataOptions,
        kinds: Sequence[HintKind],
        buckets: tuple[Size, ...],
        seed: int,
        prompts: StoredPrompts | None,
        *,
        pin_memory: bool = False,
    ) -> None:
        self._options = options
        self._kinds = tuple(kinds)
        self._buckets = buckets
        self._seed = seed
        self._prompts = prompts
        self._pin_memory = pin_memory

    def visit(self, rows: Sequence[StoredRow], epochs: Sequence[int]) -> Batch:
        """The batch of a visit of `rows`, each in its epoch.

        Raises:
            CorruptShardError: an image, map or cached layer cannot be decoded.
        """
        options, seed = self._options, self._seed
        visits = list(zip(rows, epochs, strict=True))
        plans = [plan_of(*row.size, self._buckets) for row in rows]
        views = [view_of(plan, options, seed, epoch, row.key) for plan, (row, epoch) in zip(plans, visits, strict=True)]
        dropped = [
            draws.fraction(seed, epoch, row.key, "prompt") < options.proportion_empty_prompts for row, epoch in visits
        ]
        return self._batch(
            rows, epochs, views, ["" if drop else row.caption for row, drop in zip(rows, dropped, strict=True)]
        )

    def probe(self, rows: Sequence[StoredRow]) -> Batch:
        """The batch of `rows`, all of one bucket, as the probe sees them: their middle, with every prompt."""
        return self._batch(rows, [0] * len(rows), self._probe_views(rows), [row.caption for row in rows])

    def pictures(self, rows: Sequence[StoredRow]) -> list[Picture]:
        """Image and maps of `rows` as the probe sees them."""
        views = self._probe_views(rows)
        pixels = [self._read(row, _pixels, view) for row, view in zip(rows, views, strict=True)]
        maps = [self._read(row, self._maps, view) for row, view in zip(rows, views, strict=True)]
        return [Picture(*pair) for pair in zip(pixels, maps, strict=True)]

    def _maps(self, row: StoredRow, view: View) -> tuple[Any, ...]:
        return tuple(kind.as_made(hint, view) for kind, hint in zip(self._kinds, row.hints, strict=True))

    def _probe_views(self, rows: Sequence[StoredRow]) -> list[View]:
        step = 1 if self._options.center_crop else PIXELS_PER_LATENT
        return [center_view(plan_of(*row.size, self._buckets), step) for row in rows]

    def _batch(
        self, rows: Sequence[StoredRow], epochs: Sequence[int], views: Sequence[View], prompts: Sequence[str]
    ) -> Batch:
        batch = Batch(
            keys=tuple(row.key for row in rows),
            epochs=tuple(epochs),
            maps=tuple(self._map(number, rows, views) for number in range(len(self._kinds))),
            prompts=tuple(prompts),
            time_ids_BT=torch.tensor([_time_ids(row, view) for row, view in zip(rows, views, strict=True)]),
            embeddings=self._prompts.embeddings(rows, prompts) if self._prompts is not None else None,
            **self._pictures(rows, views),
        )
        return batch.pin_memory() if self._pin_memory else batch

    def _map(self, number: int, rows: Sequence[StoredRow], views: Sequence[View]) -> Tensor:
        """Maps of one condition, uint8 (B, 1 or 3, 8H, 8W)."""
        kind = self._kinds[number]

        def read(row: StoredRow, view: View) -> Pixels:
            return kind.cut(row.hints[number], view)

        maps = torch.from_numpy(np.stack([self._read(row, read, view) for row, view in zip(rows, views, strict=True)]))
        return maps[:, None] if maps.ndim == 3 else maps.permute(0, 3, 1, 2).contiguous()

    def _pictures(self, rows: Sequence[StoredRow], views: Sequence[View]) -> dict[str, Tensor]:
        """Pixels, or the cached latents that stand for them."""
        if rows[0].latents is None:
            pixels = [self._read(row, _pixels, view) for row, view in zip(rows, views, strict=True)]
            return {"pixels_BCHW": to_unit_range(torch.from_numpy(np.stack(pixels)))}
        moments = [self._read(row, self._latents, view) for row, view in zip(rows, views, strict=True)]
        names = ("latent_mean_BCHW", "latent_std_BCHW")
        return {
            name: torch.from_numpy(np.stack([moment[index] for moment in moments])).float()
            for index, name in enumerate(names)
        }

    def _read(self, row: StoredRow, read: Callable[[StoredRow, View], _ValueT], view: View) -> _ValueT:
        try:
            return read(row, view)
        except ValueError as error:
            raise CorruptShardError(f"shard {row.shard:05d}, row {row.key}: {error}") from error

    def _latents(self, row: StoredRow, view: View) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        stored = row.latents
        if stored is None:
            raise ValueError("it has no latents")
        mean, std = (stored.flipped_mean, stored.flipped_std) if view.flipped else (stored.mean, stored.std)
        if mean is None or std is None:
            raise ValueError("its latents are missing")
        whole = (stored.width * PIXELS_PER_LATENT, stored.height * PIXELS_PER_LATENT)
        left, top = (0, 0) if whole == view.target else (view.left, view.top)
        if view.flipped and whole != view.target:
            # what is at the left of the image is at the right of the mirrored one
            left = whole[0] - left - view.target[0]
        height, width = (side // PIXELS_PER_LATENT for side in reversed(view.target))
        y, x = top // PIXELS_PER_LATENT, left // PIXELS_PER_LATENT
        shape = (-1, stored.height, stored.width)
        arrays = (
            np.frombuffer(data, np.float16).reshape(shape)[:, y : y + height, x : x + width] for data in (mean, std)
        )
        one, other = arrays
        if one.shape[1:] != (height, width):
            raise ValueError(f"its latents are {stored.width}x{stored.height}, too small for {view.target}")
        return one, other


def _pixels(row: StoredRow, view: View) -> Pixels:
    if row.image is None:
        raise ValueError("it has no image")
    pixels = decode_stored(row.image)
    if (pixels.shape[1], pixels.shape[0]) != row.size:
        raise ValueError(f"the image is {pixels.shape[1]}x{pixels.shape[0]}, its row says {row.size[0]}x{row.size[1]}")
    return cut(pixels, view)


def _time_ids(row: StoredRow, view: View) -> list[float]:
    width, height = row.original_size
    sizes: tuple[Any, ...] = (height, width, view.top, view.left, view.target[1], view.target[0])
    return [float(size) for size in sizes]
