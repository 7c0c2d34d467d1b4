"""What one measurement of controllability says: plain floats, beside what does not change during a run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from training.controllability import Score, confirmed, lift


@dataclass(frozen=True, slots=True)
class Reading:
    """Scores of what was read back for one condition, one per row."""

    own: tuple[float, ...]
    """Against the row's own map."""
    other: tuple[float, ...]
    """Against another row's."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What does not change during a run."""

    off: Mapping[str, Reading]
    """By layer, of images that the base makes alone."""
    real: Mapping[str, float]
    """By layer, the mean score of the stored images themselves: what can be reached."""

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Baseline":
        """From `to_json`."""
        off = {layer: Reading(tuple(one["own"]), tuple(one["other"])) for layer, one in values["off"].items()}
        return cls(off, dict(values["real"]))


@dataclass(frozen=True, slots=True)
class Controllability:
    """How well the images of one measurement obey the hints of one condition."""

    layer: str
    score: Score
    now: Reading
    off: Reading
    real: float

    @property
    def measure(self) -> str:
        """Name of the number: "canny_f1"."""
        return f"{self.layer}_{self.score.name}"

    @property
    def lift(self) -> float:
        """0 as with the control off, 1 as the real images."""
        return lift(fmean(self.now.own), fmean(self.off.own), self.real)

    @property
    def confirmed(self) -> bool | None:
        """Whether the own hint is preferred more than with the control off; None where the control does nothing."""
        return None if self.now == self.off else confirmed(self._preferences(self.now), self._preferences(self.off))

    def _preferences(self, reading: Reading) -> list[float]:
        sign = 1.0 if self._higher_is_better else -1.0
        return [sign * (own - other) for own, other in zip(reading.own, reading.other, strict=True)]

    @property
    def _higher_is_better(self) -> bool:
        return self.score.perfect > 0

    def to_json(self) -> dict[str, Any]:
        """The fields of a line of `controllability.jsonl` that the measurement gives."""
        return {
            "measure": self.measure,
            "higher_is_better": self._higher_is_better,
            "own": list(self.now.own),
            "other": list(self.now.other),
            "mean_own": fmean(self.now.own),
            "mean_other": fmean(self.now.other),
            "off": fmean(self.off.own),
            "real": self.real,
            "lift": self.lift,
            "confirmed": self.confirmed,
        }
