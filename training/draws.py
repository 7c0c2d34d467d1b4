"""Everything random about a row, drawn from (seed, epoch, key, purpose): never from the state of a process.

So one process, many ranks and a resumed run draw the same for the same row, in whatever batch and order it comes, and a
new purpose changes no other one. Shapes: B rows of a batch.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_FRACTION_BITS = 53
"""Bits of a float64's mantissa: every fraction of that many bits is exact."""


def digest(seed: int, epoch: int, key: str, purpose: str) -> int:
    """64 bits that look random, the same on every machine: the start of BLAKE2b over the four.

    The lengths of the texts stand before them, so that no two different fours are the same bytes.
    """
    text = f"{seed},{epoch},{len(key)},{key},{purpose}"
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def generator(seed: int, epoch: int, key: str, purpose: str) -> torch.Generator:
    """A CPU generator of this row's own for this purpose."""
    return torch.Generator().manual_seed(digest(seed, epoch, key, purpose) >> 1)


def fraction(seed: int, epoch: int, key: str, purpose: str) -> float:
    """One number in [0, 1)."""
    return (digest(seed, epoch, key, purpose) >> (64 - _FRACTION_BITS)) / (1 << _FRACTION_BITS)


def integer(seed: int, epoch: int, key: str, purpose: str, low: int, high: int) -> int:
    """One number of [low, high).

    Raises:
        ValueError: the range is empty.
    """
    if high <= low:
        raise ValueError(f"no integer is in [{low}, {high})")
    return low + (digest(seed, epoch, key, purpose) * (high - low) >> 64)


def normal(seed: int, epochs: int | Sequence[int], keys: Sequence[str], purpose: str, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers, float32 of shape (B, *shape); `epochs` is that of all rows, or one per row."""
    drawn = [
        torch.randn(tuple(shape), generator=generator(seed, epoch, key, purpose))
        for epoch, key in zip(_each(epochs, keys), keys, strict=True)
    ]
    return torch.stack(drawn)


def uniform(seed: int, epochs: int | Sequence[int], keys: Sequence[str], purpose: str) -> Tensor:
    """Numbers in [0, 1), float64 of shape (B,)."""
    drawn = [fraction(seed, epoch, key, purpose) for epoch, key in zip(_each(epochs, keys), keys, strict=True)]
    return torch.tensor(drawn, dtype=torch.float64)


def _each(epochs: int | Sequence[int], keys: Sequence[str]) -> Sequence[int]:
    return [epochs] * len(keys) if isinstance(epochs, int) else epochs
