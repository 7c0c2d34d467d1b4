"""How a run ended."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    update: int
    samples_seen: int
    epoch: float
    folder: str
    """Where the ControlNet is."""
    reason: str
    """Why it stopped before its last update; empty where it did not."""
