"""The warning that a run will not converge as it is, with what is most often the cause."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from training.probe_interval import expected_convergence

if TYPE_CHECKING:
    from controlmill.config import TrainConfig
    from training.convergence import Detector

Kind = Literal["budget", "no_growth"]
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
    """Whether the run ends before its forecast, or S does not grow though it is late; None otherwise."""
    if not detector.evaluations or {"control_following", "already_following"} & set(detector.events):
        return None
    now = detector.evaluations[-1]
    if detector.forecasts and detector.forecasts[-1].update == now.update:
        expected = detector.forecasts[-1].expected
        if expected <= num_updates:
            return None
        return Stalled("budget", f"convergence is expected around update {expected:,}, the run ends at {num_updates:,}")
    late = min(_PART_OF_BUDGET * num_updates, _TIMES_EXPECTED * expected_convergence(learning_rate))
    halfway = [one.sensitivity for one in detector.evaluations if one.update <= now.update / 2 and one.sensitivity]
    if now.update < late or now.sensitivity is None or not halfway:
        return None
    if now.sensitivity >= _LEAST_GROWTH * halfway[-1] and now.sensitivity < detector.options.onset_sensitivity:
        return None
    return Stalled(
        "no_growth",
        f"the residuals' sensitivity to the hint is {now.sensitivity:.2g}, and was {halfway[-1]:.2g} halfway",
    )


def causes(config: "TrainConfig", num_rows: int, update: int) -> list[str]:
    """What to look at, the likeliest first: what this configuration shows, then what it cannot show."""
    found = []
    if config.learning_rate < 1e-5:
        found.append(
            f"learning_rate {config.learning_rate:g} is below 1e-5, with which 3,000 to 7,000 updates are usual"
        )
    if config.gradient_accumulation_steps > 1 and update < expected_convergence(config.learning_rate):
        found.append(
            f"updates count, not batches: {update:,} so far with {config.gradient_accumulation_steps} batches each, "
            f"about {expected_convergence(config.learning_rate):,} are usual at this learning rate"
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
    found.append("hints that do not belong to their images, or are empty: look at controlmill inspect --contact-sheet")
    found.append("captions that are wrong or all alike")
    if config.max_timestep is None and not config.min_timestep and config.timestep_bias_strategy == "none":
        found.append("all timesteps are trained alike; timestep_bias_strategy=later came sooner on small models")
    return found
