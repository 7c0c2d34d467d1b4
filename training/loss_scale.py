"""The dynamic loss scale of fp16: losses are multiplied by it, so that small gradients do not become 0.

The rule is that of `torch.amp.GradScaler`. It is our own because DeepSpeed's use of that class neither saves its state
nor, under ZeRO, divides by the scale before it clips: https://arxiv.org/abs/1710.03740, section 3.2.
"""

from collections.abc import Mapping
from typing import Any

_GROWTH, _BACKOFF = 2.0, 0.5
_SMALLEST = 1.0


class LossScale:
    """A power of two that is halved after gradients that are not finite, and doubled after many that are."""

    def __init__(self, value: float = 2.0**16, *, growth_interval: int = 2000) -> None:
        """Begin at `value`; it grows after `growth_interval` updates in a row."""
        self.value = value
        self._growth_interval = growth_interval
        self._num_good = 0

    def update(self, *, is_finite: bool) -> bool:
        """Take in whether the gradients of an update were finite.

        Returns:
            Whether the scale explains it: False where gradients are not finite although nothing is scaled any more.
        """
        if not is_finite:
            explained = self.value > _SMALLEST
            self.value, self._num_good = max(self.value * _BACKOFF, _SMALLEST), 0
            return explained
        self._num_good += 1
        if self._num_good == self._growth_interval:
            self.value, self._num_good = self.value * _GROWTH, 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"value": self.value, "num_good": self._num_good}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.value, self._num_good = float(state["value"]), int(state["num_good"])
