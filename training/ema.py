"""The moving average of the trained weights, of whichever part of them this rank holds."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def decay_at(update: int, largest: float) -> float:
    """The decay after `update` updates: low at first, so that the average forgets where the weights began."""
    return min(largest, (1 + update) / (10 + update))


class MovingAverage:
    """Averages of tensors, float32, next to them."""

    def __init__(self, tensors: Callable[[], Sequence[Tensor]], largest_decay: float) -> None:
        """Start at the tensors as they are.

        Args:
            tensors: gives what is averaged: weights, or under ZeRO-3 this rank's partition of each.
            largest_decay: `ema_decay`.
        """
        self._tensors = tensors
        self._largest_decay = largest_decay
        self.averages = [tensor.detach().float().clone() for tensor in tensors()]

    @torch.no_grad()
    def update(self, update: int) -> None:
        """Take in the weights after `update` updates."""
        decay = decay_at(update, self._largest_decay)
        torch._foreach_lerp_(self.averages, [tensor.detach().float() for tensor in self._tensors()], 1 - decay)

    @torch.no_grad()
    def set(self, averages: Sequence[Tensor]) -> None:
        """Go on from averages of a checkpoint, of the part that this rank holds."""
        for own, saved in zip(self.averages, averages, strict=True):
            own.copy_(saved)
