"""The rows of the probe made ready: latents, prompts, hints, and noise that stays the same for the whole run.

Legend: N rows of the probe, B rows of a chunk, C channels, H W latent height and width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from training import draws
from training.batch import Batch, PromptEmbeddings, as_stored

if TYPE_CHECKING:
    from training.base_model import BaseModel


@dataclass(frozen=True, slots=True)
class Chunk:
    """As many rows as go through the networks at once, on the device."""

    rows: Tensor
    """Their numbers among the N, int64 on the CPU."""
    latents_BCHW: Tensor
    prompts: PromptEmbeddings
    time_ids_BT: Tensor | None
    is_own: Tensor
    """Whether a row counts here: ranks with fewer rows repeat some, so that all call the engine equally often."""


@dataclass(frozen=True, slots=True)
class ProbeRows:
    """What this rank needs of the probe: its own rows, and the hints of all."""

    keys: tuple[str, ...]
    hints: tuple[Tensor, ...]
    """Those of all N rows, on the CPU."""
    chunks: tuple[Chunk, ...]

    @classmethod
    @torch.no_grad()
    def prepare(cls, batch: Batch, base: "BaseModel", *, rank: int, world_size: int, chunk_size: int) -> "ProbeRows":
        """Encode the rows of this rank.

        Latents are the means of the VAE's posterior, rounded as a cache stores them: nothing is drawn.

        Args:
            batch: the held-out rows, the same on every rank, on the CPU.
            base: encodes what is not cached.
            rank: of this process.
            world_size: number of processes that share the rows.
            chunk_size: rows that fit through the networks at once.
        """
        num_rows = len(batch)
        num_each = -(-num_rows // world_size)
        numbers = [rank + world_size * turn for turn in range(num_each)]
        mine = [(number % num_rows, number < num_rows) for number in numbers]
        chunks = tuple(
            _chunk(batch, base, mine[start : start + chunk_size]) for start in range(0, len(mine), chunk_size)
        )
        return cls(batch.keys, batch.hints, chunks)

    def noise(self, chunk: Chunk, timestep: int, seed: int) -> Tensor:
        """The noise of these rows at a timestep, a function of seed, key and timestep only."""
        keys = [self.keys[row] for row in chunk.rows.tolist()]
        shape_CHW = tuple(chunk.latents_BCHW.shape[1:])
        return draws.normal(seed, 0, keys, f"probe noise {timestep}", shape_CHW).to(chunk.latents_BCHW.device)

    def hints_of(self, chunk: Chunk, order: Tensor | None = None) -> tuple[Tensor, ...]:
        """The hints of these rows, or of the rows that `order` puts in their place."""
        rows = chunk.rows if order is None else order[chunk.rows]
        return tuple(hint[rows].to(chunk.latents_BCHW.device) for hint in self.hints)


def derangement(num_rows: int, seed: int, update: int) -> Tensor:
    """For each row another row, int64 (N,): one random cycle through all, drawn from seed and update alone."""
    order = torch.randperm(num_rows, generator=draws.generator(seed, 0, str(update), "probe derangement"))
    others = torch.empty(num_rows, dtype=torch.int64)
    others[order] = order.roll(1)
    return others


def _chunk(batch: Batch, base: "BaseModel", mine: list[tuple[int, bool]]) -> Chunk:
    rows = torch.tensor([row for row, _ in mine], dtype=torch.int64)
    placed = _taken(batch, rows).to(base.device)
    if placed.latent_mean_BCHW is not None:
        mean_BCHW = placed.latent_mean_BCHW
    else:
        if placed.pixels_BCHW is None:
            raise ValueError("the held-out rows have neither latents nor pixels")
        mean_BCHW = as_stored(base.encode_pixels(placed.pixels_BCHW)[0])
    prompts = placed.embeddings if placed.embeddings is not None else base.encode_prompts(placed.prompts)
    nothing = torch.zeros_like(mean_BCHW)
    return Chunk(
        rows,
        base.sample_latents(mean_BCHW, nothing, nothing),
        prompts,
        placed.time_ids_BT,
        torch.tensor([own for _, own in mine]),
    )


def _taken(batch: Batch, rows: Tensor) -> Batch:
    """Rows of a batch, without hints."""
    chosen = rows.tolist()

    def take(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[rows]

    embeddings = batch.embeddings
    if embeddings is not None:
        embeddings = PromptEmbeddings(embeddings.hidden_BLD[rows], take(embeddings.pooled_BD))
    return replace(
        batch,
        keys=tuple(batch.keys[row] for row in chosen),
        epochs=tuple(batch.epochs[row] for row in chosen),
        prompts=tuple(batch.prompts[row] for row in chosen),
        maps=(),
        pixels_BCHW=take(batch.pixels_BCHW),
        latent_mean_BCHW=take(batch.latent_mean_BCHW),
        latent_std_BCHW=take(batch.latent_std_BCHW),
        embeddings=embeddings,
        time_ids_BT=take(batch.time_ids_BT),
    )


def chunk_noises(rows: ProbeRows, timesteps: tuple[int, ...], seed: int) -> Iterator[tuple[Chunk, int, int, Tensor]]:
    """Every chunk at every timestep: (chunk, number of the timestep, the timestep, noise)."""
    for chunk in rows.chunks:
        for number, timestep in enumerate(timesteps):
            yield chunk, number, timestep, rows.noise(chunk, timestep, seed)
