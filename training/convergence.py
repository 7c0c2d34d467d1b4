"""Sudden convergence, detected: a state machine over the evaluations of the probe.

Events, in this order:
    control_onset       the hint is read, not yet followed: significant 3 times in a row, or the residuals depend on it
    control_following   the sudden convergence: significant, and an effect of at least `following_high_gain`, or of
                        `following_gain` whose rise has bent; 2 times in a row
    control_settled     the gain rises no more: where the rise was, with an interval, and whether it was sudden
                        comes again where it doubles later: then the first plateau was a step
    already_following   instead of all others: the very first evaluation follows (a resumed or fine-tuned ControlNet)
Significance alone comes up to five times too early and now and then on unrelated hints; the floor of the effect size is
what makes the rule safe. Plain floats, no torch: `controlmill convergence` runs the same code over a `probe.jsonl`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, median
from typing import Any, Literal

from controlmill.config.convergence import ConvergenceOptions
from training.forecast import Forecast, forecast
from training.gain import Evaluation, Gain, measure
from training.transition import Transition, interval, label_of, transition

EventName = Literal["control_onset", "control_following", "control_settled", "already_following"]
# the slope of the gain is taken over this many evaluations
_SLOPE_WINDOW = 3
# and over this many where a bend is looked for: a wider one would find it long after the midpoint, and what noise takes
# for a bend is still significant and above the floor
_BEND_WINDOW = 2
# at the first evaluation the gain decides, for a resumed ControlNet may have few rows; this keeps noise from deciding
_FIRST_P = 0.05
# a gain that rises to this times its level at `control_settled` had not settled
_RISES_AGAIN = 2.0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the control, at the evaluation that showed it."""

    name: EventName
    update: int
    samples_seen: int | None
    epoch: float | None
    values: dict[str, Any] = field(default_factory=dict)
    """Plain values: the gain, its p-value, for `control_settled` what `Convergence.to_json` gives."""

    def to_json(self) -> dict[str, Any]:
        """One line of `events.jsonl`."""
        head = {"event": self.name, "update": self.update, "samples_seen": self.samples_seen, "epoch": self.epoch}
        return {**head, **self.values}


@dataclass(frozen=True, slots=True)
class Convergence:
    """Where the rise was, as far as the evaluations show it."""

    rise: Transition
    label: str
    ci95: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, updates rounded to tenths."""
        return {
            "convergence_update": round(self.rise.s50, 1),
            "ci95": None if self.ci95 is None else [round(bound, 1) for bound in self.ci95],
            "s10": _rounded(self.rise.s10, 1),
            "s90": _rounded(self.rise.s90, 1),
            "R": _rounded(self.rise.rise_ratio, 4),
            "rho": _rounded(self.rise.width_ratio, 4),
            "label": self.label,
        }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


class Detector:
    """Takes evaluations in their order and says what happened; its state is plain values and survives resume."""

    def __init__(self, options: ConvergenceOptions) -> None:
        self.options = options
        self.events: dict[EventName, Event] = {}
        self.forecasts: list[Forecast] = []
        self.evaluations: list[Evaluation] = []
        self.gains: list[Gain] = []
        self.num_unusable = 0
        self._num_significant = 0
        self._num_following = 0
        self._num_flat = 0
        self._steepest = 0.0
        self._settled_level = 0.0

    def add(self, evaluation: Evaluation) -> list[Event]:
        """Take the next evaluation; return the events that it brings.

        One without enough usable rows (NaN) counts as missing: it neither continues nor breaks a row of others.
        """
        gain = measure(evaluation)
        if gain is not None:
            return self.take(evaluation, gain)
        self.num_unusable += 1
        return []

    def take(self, evaluation: Evaluation, gain: Gain) -> list[Event]:
        """The same with a gain that is known; the evaluation may be without losses, and s50 has no interval then."""
        self.evaluations.append(evaluation)
        self.gains.append(gain)
        self._count(gain)
        events = [*self._start(), *self._rise(), *self._settle()]
        self._foresee()
        return events

    @property
    def max_gain(self) -> float | None:
        """The largest gain so far."""
        return max((gain.gain for gain in self.gains), default=None)

    @property
    def curve(self) -> list[tuple[int, float]]:
        """Update and gain of each usable evaluation."""
        return [(one.update, gain.gain) for one, gain in zip(self.evaluations, self.gains, strict=True)]

    def convergence(self) -> Convergence | None:
        """Where the rise is, from all that has been seen; provisional until `control_settled`, None before following.

        What is seen after `control_settled` counts too: the rise was to where the run has come since.
        """
        if "control_following" not in self.events:
            return None
        rise = transition(self.curve)
        if rise is None:
            return None
        return Convergence(rise, label_of(rise, self.options), interval(self.evaluations))

    def _count(self, gain: Gain) -> None:
        significant = gain.p_value < self.options.following_p
        self._num_significant = self._num_significant + 1 if significant else 0
        has_risen = gain.gain >= self.options.following_high_gain or self._has_bent()
        following = significant and gain.gain >= self.options.following_gain and has_risen
        self._num_following = self._num_following + 1 if following else 0

    def _has_bent(self) -> bool:
        """Whether the gain rises little, compared with its steepest rise so far."""
        points = self.curve
        slopes = [
            (high - low) / (end - start)
            for (start, low), (end, high) in zip(points, points[_BEND_WINDOW:], strict=False)
        ]
        return bool(slopes) and slopes[-1] <= self.options.following_bend * max(slopes)

    def _start(self) -> list[Event]:
        first = self.gains[0]
        follows = first.gain >= self.options.following_gain and first.p_value < _FIRST_P
        if len(self.gains) == 1 and follows:
            return [self._event("already_following")]
        return []

    def _rise(self) -> list[Event]:
        if "already_following" in self.events or "control_following" in self.events:
            return []
        following = self._num_following >= self.options.following_evaluations
        sensitivity = self.evaluations[-1].sensitivity
        sensitive = sensitivity is not None and sensitivity > self.options.onset_sensitivity
        onset = sensitive or following or self._num_significant >= self.options.onset_evaluations
        events = []
        if onset and "control_onset" not in self.events:
            events.append(self._event("control_onset"))
        if following:
            events.append(self._event("control_following"))
        return events

    def _settle(self) -> list[Event]:
        if len(self.gains) <= _SLOPE_WINDOW:
            return []
        updates = [one.update for one in self.evaluations]
        slope = (self._pair(-1) - self._pair(-1 - _SLOPE_WINDOW)) / (updates[-1] - updates[-1 - _SLOPE_WINDOW])
        self._steepest = max(self._steepest, slope)
        level = median(gain.gain for gain in self.gains[-3:])
        if "control_settled" in self.events and level > _RISES_AGAIN * self._settled_level:
            del self.events["control_settled"]
            self._num_flat = 0
        flat = "control_following" in self.events and slope <= self.options.settle_slope * self._steepest
        self._num_flat = self._num_flat + 1 if flat else 0
        if self._num_flat < self.options.settle_evaluations or "control_settled" in self.events:
            return []
        found = self.convergence()
        if found is None:
            return []
        self._settled_level = level
        return [self._event("control_settled", **found.to_json())]

    def _foresee(self) -> None:
        over = "already_following" in self.events or "control_following" in self.events
        if not over:
            points = [(one.update, one.sensitivity) for one in self.evaluations]
            made = forecast(points, self.options, is_significant=self._num_significant > 0)
            if made is not None:
                self.forecasts.append(made)

    def _pair(self, position: int) -> float:
        """Mean gain of an evaluation and the one before it."""
        end = len(self.gains) + position + 1
        return fmean(gain.gain for gain in self.gains[max(0, end - 2) : end])

    def _event(self, name: EventName, **values: Any) -> Event:
        evaluation, gain = self.evaluations[-1], self.gains[-1]
        measured = {
            "gain": gain.gain,
            "p_value": gain.p_value,
            "win_rate": gain.win_rate,
            "sensitivity": evaluation.sensitivity,
        }
        event = Event(name, evaluation.update, evaluation.samples_seen, evaluation.epoch, {**measured, **values})
        self.events[name] = event
        return event

    def state_dict(self) -> dict[str, Any]:
        """All that `add` depends on, as plain values that JSON can hold."""
        return {
            "evaluations": [asdict(one) for one in self.evaluations],
            "events": [asdict(event) for event in self.events.values()],
            "forecasts": [asdict(one) for one in self.forecasts],
            "num_unusable": self.num_unusable,
            "num_significant": self._num_significant,
            "num_following": self._num_following,
            "num_flat": self._num_flat,
            "steepest": self._steepest,
            "settled_level": self._settled_level,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; what was announced stays announced, also under other options."""
        self.evaluations = [_evaluation(values) for values in state["evaluations"]]
        self.gains = [gain for gain in map(measure, self.evaluations) if gain is not None]
        self.events = {values["name"]: Event(**values) for values in state["events"]}
        self.forecasts = [Forecast(**values) for values in state["forecasts"]]
        self.num_unusable = state["num_unusable"]
        self._num_significant = state["num_significant"]
        self._num_following = state["num_following"]
        self._num_flat = state["num_flat"]
        self._steepest = state["steepest"]
        self._settled_level = state["settled_level"]


def _evaluation(values: dict[str, Any]) -> Evaluation:
    sides = {side: tuple(tuple(losses) for losses in values[side]) for side in ("right", "wrong")}
    return Evaluation(**{**values, **sides})


def replay(evaluations: Sequence[Evaluation], options: ConvergenceOptions) -> Detector:
    """A detector that has seen all of these."""
    detector = Detector(options)
    for evaluation in evaluations:
        detector.add(evaluation)
    return detector
