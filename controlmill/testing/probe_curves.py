"""Evaluations of a probe with a gain that is known."""

import random
from collections.abc import Callable, Iterable

from training.gain import Evaluation


def evaluation(
    update: int, gain: float, *, num_rows: int = 32, spread: float = 0.02, sensitivity: float | None = None
) -> Evaluation:
    """Three timesteps with different losses; the gain of each row scatters by `spread` around `gain`."""
    draw = random.Random(f"probe curve {update}")  # noqa: S311 no secret
    wrong = tuple(tuple(scale * draw.uniform(0.8, 1.2) for scale in (0.04, 0.02, 0.01)) for _ in range(num_rows))
    right = tuple(
        tuple(loss * (1 - gain - own) for loss in losses)
        for losses in wrong
        for own in [draw.gauss(0, spread) if update else 0.0]
    )
    return Evaluation(update, right, wrong, sensitivity, samples_seen=16 * update, epoch=update / 100)


def evaluations(
    updates: Iterable[int], gain: Callable[[int], float], *, num_rows: int = 32, spread: float = 0.02
) -> list[Evaluation]:
    """One per update, with the gain that `gain` gives it."""
    return [evaluation(update, gain(update), num_rows=num_rows, spread=spread) for update in updates]
