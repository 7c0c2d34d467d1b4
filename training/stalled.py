"""The warning that a run will not converge as it is, with what is most often the cause."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from training.probe_interval import expected_convergence

if TYPE_CHECKING:
    from controlmill.config import TrainConfig
    from training.convergence import Detector

Kind = Literal["budget", "no_growth", "not_followed"]
# S has grown where it is at least this many times what it was at half of the way so far
_LEAST_GROWTH = 2.0
# what is waited for before the lack of growth is worth a word
_PART_OF_BUDGET, _TIMES_EXPECTED = 0.5, 1.5


@dataclass(frozen=True, slots=True)
class Stalled:
    """What speaks against a convergence within the run."""

    kind: Kind
    reason: str


def stalled(detector: "Detector", num_updates: int, learning_rate: float) -> Stalled | None:
    """Whether the run ends before its forecast, or it is late and S says that it will not follow; None otherwise."""
    if not detector.evaluations or {"control_following", "already_following"} & set(detector.events):
        return None
    now = detector.evaluations[-1]
    if detector.forecasts and detector.forecasts[-1].update == now.update:
        expected = detector.forecasts[-1].expected
        if expected <= num_updates:
            return None
        return Stalled("budget", f"convergence is expected around update {expected:,}, the run ends at {num_updates:,}")
    late = min(_PART_OF_BUDGET * num_updates, _TIMES_EXPECTED * expected_convergence(learning_rate))
    earlier = [one.sensitivity for one in detector.evaluations if one.update <= now.update / 2]
    halfway = next((one for one in reversed(earlier) if one is not None), None)
    if now.update < late or now.sensitivity is None or halfway is None:
        return None
    return _of_sensitivity(now.sensitivity, halfway, detector)


def _of_sensitivity(now: float, halfway: float, detector: "Detector") -> Stalled | None:
    if now >= detector.options.onset_sensitivity:
        # the hint is read: following comes soon, or never
        if halfway < detector.options.onset_sensitivity:
            return None
        gain = detector.gains[-1].gain
        return Stalled(
            "not_followed",
            f"the residuals' sensitivity to the hint is {now:.2g}, and was {halfway:.2g} halfway, "
            f"but the right hint is hardly better than another: the control gain is {gain:.2g}",
        )
    if now > 0 and now >= _LEAST_GROWTH * halfway:
        return None
    return Stalled("no_growth", f"the residuals' sensitivity to the hint is {now:.2g}, and was {halfway:.2g} halfway")


def causes(config: "TrainConfig", num_rows: int, update: int) -> list[str]:
    """What to look at, the likeliest first: what this configuration shows, then what it cannot show."""
    return [*_shown(config, num_rows, update), *_not_shown(config)]


def _shown(config: "TrainConfig", num_rows: int, update: int) -> list[str]:
    found = []
    if config.gradient_accumulation_steps > 1 and update < expected_convergence(config.learning_rate):
        found.append(
            f"updates count, not batches: {update:,} so far with {config.gradient_accumulation_steps} batches each, "
            f"about {expected_convergence(config.learning_rate):,} are usual at this learning rate"
        )
    if config.learning_rate < 1e-5:
        found.append(
            f"learning_rate {config.learning_rate:g} is below 1e-5, with which 3,000 to 7,000 updates are usual"
        )
    if num_rows < 1000:
        found.append(f"there are {num_rows:,} rows to train on; below 1,000 many never converged")
    if config.hint_init == "default":
        found.append("the default hint network passes thin lines on weakly; try hint_init=kaiming")
    if config.proportion_empty_prompts < 0.3:
        found.append(
            f"proportion_empty_prompts {config.proportion_empty_prompts:g}: prompts may say what the hint says; "
            "the paper drops half of them"
        )
    if config.rows_per_update < 16:
        found.append(f"{config.rows_per_update} rows per update are few; try gradient_accumulation_steps for 16 to 64")
    return found


def _not_shown(config: "TrainConfig") -> list[str]:
    found = [
        "hints that do not belong to their images, or are empty: look at controlmill inspect --contact-sheet",
        "captions that are wrong or all alike",
    ]
    if config.num_workers > 1:
        found.append(
            f"{config.num_workers} workers: runs on several GPUs never followed where gradients were not summed; "
            "compare a few hundred updates with num_workers=1"
        )
    if config.max_timestep is None and not config.min_timestep and config.timestep_bias_strategy == "none":
        found.append("all timesteps are trained alike; timestep_bias_strategy=later came sooner on small models")
    found.append("if only images of other programs do not follow: their conditioning_scale is to be 1")
    return found
