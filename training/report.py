"""What a probe log says, as one JSON object and in words."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlmill.config import validate
from controlmill.config.convergence import ConvergenceOptions
from controlmill.errors import RunUnusableError
from training.convergence import Convergence, Detector, EventName, replay
from training.probe_log import log_of, read_probe_log


@dataclass(frozen=True, slots=True)
class Report:
    """The detector after the whole log, and where the log is."""

    file: Path
    detector: Detector
    convergence: Convergence | None
    address: str = ""
    """What a person knows the log by, where `file` is a copy of it."""

    @property
    def name(self) -> str:
        """Of the log."""
        return self.address or str(self.file)

    def update_of(self, name: EventName) -> int | None:
        """The update of an event, None where it did not occur."""
        event = self.detector.events.get(name)
        return None if event is None else event.update

    def to_json(self) -> dict[str, Any]:
        """Plain values; between following and settled the values of the rise are provisional."""
        empty = dict.fromkeys(("convergence_update", "ci95", "s10", "s90", "R", "rho", "label"))
        rise = empty if self.convergence is None else self.convergence.to_json()
        return {
            "file": self.name,
            "onset": self.update_of("control_onset"),
            "following": self.update_of("control_following"),
            "settled": self.update_of("control_settled"),
            **rise,
            "max_gain": self.detector.max_gain,
            "forecasts": [
                {"update": one.update, "expected": one.expected, "low": one.low, "high": one.high}
                for one in self.detector.forecasts
            ],
        }

    def lines(self) -> list[str]:
        """For a person: what happened first, then when."""
        curve = self.detector.curve
        seen = f"{len(curve):,} evaluations"
        if curve:
            seen += f", updates {curve[0][0]:,} to {curve[-1][0]:,}"
        if self.detector.num_unusable:
            seen += f"; {self.detector.num_unusable:,} more without finite losses"
        lines = [f"{self.name}: {seen}", f"  {self.verdict()}"]
        for name, meaning in _MEANINGS.items():
            event = self.detector.events.get(name)
            if event is not None:
                gain, p_value = event.values["gain"], event.values["p_value"]
                lines.append(f"  {meaning:<34} update {event.update:>7,}   gain {gain:.3f}, p {p_value:.1g}")
        if self.detector.forecasts:
            lines += [f"  forecast of update {one.update:,}: {one.sentence()}" for one in _told(self.detector)]
        return lines

    def title(self) -> str:
        """The verdict without what is in brackets."""
        return re.sub(r" \([^)]*\)", "", self.verdict()).rstrip(".")

    def verdict(self) -> str:
        """Whether and where it converged, in one sentence."""
        values, events = self.to_json(), self.detector.events
        if "already_following" in events:
            return "The control was followed from the first evaluation on; there is no convergence to date."
        if "control_following" not in events:
            options = self.detector.options
            return (
                f"No convergence: the largest gain is {values['max_gain'] or 0:.4f}; {options.following_high_gain:g} "
                f"counts as following, and {options.following_gain:g} where its rise has bent."
            )
        if values["convergence_update"] is None:
            return "Sudden convergence detected; too few evaluations yet to say where its midpoint is."
        interval = values["ci95"]
        shown = (
            ""
            if interval is None
            else f" (95 % interval over the probe's rows: {interval[0]:,.0f} to {interval[1]:,.0f})"
        )
        provisional = "" if "control_settled" in events else "; provisional, the gain still rises"
        shape = ", ".join(f"{name} {values[name]:.2f}" for name in ("R", "rho") if values[name] is not None)
        shape = f" ({shape})" if shape else ""
        return (
            f"Convergence at update {values['convergence_update']:,.0f}{shown}: {values['label']}{shape}{provisional}."
        )


_MEANINGS: dict[EventName, str] = {
    "control_onset": "onset, the hint is read",
    "control_following": "following, the sudden convergence",
    "control_settled": "settled, the gain rises no more",
    "already_following": "already following",
}


def _told(detector: Detector) -> list[Any]:
    """The first and the last forecast."""
    made = detector.forecasts
    return [made[0]] if len(made) == 1 else [made[0], made[-1]]


def analyse(path: Path, overrides: dict[str, Any], address: str = "") -> Report:
    """Replay the probe log of a run, or a file of that form.

    Args:
        path: the folder of a run, or its probe log.
        overrides: thresholds; the others are those of the run's config.json, where one lies beside the log.
        address: what to call the log, where this is a copy of it.

    Raises:
        ConfigError: an override is no option of convergence, or has a wrong value.
        RunUnusableError: it is not there, or a line of it is broken.
    """
    file = log_of(path)
    options = validate(ConvergenceOptions, {**_options_of_run(file.with_name("config.json")), **overrides})
    detector = replay(read_probe_log(file), options)
    return Report(file, detector, detector.convergence(), address)


def _options_of_run(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunUnusableError(f"{file}: cannot read the options of the run: {error}") from error
    known = ConvergenceOptions.model_fields
    return {name: value for name, value in values.items() if name in known} if isinstance(values, dict) else {}
