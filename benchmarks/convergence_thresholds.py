"""What `following` would be with another least gain: the runs' evaluations, given to the detector once more."""

from collections.abc import Sequence
from statistics import median

from convergence_findings import Findings
from convergence_words import FOLLOWING_WITHIN, head, row

from controlmill.config.convergence import ConvergenceOptions
from training.convergence import replay

GAINS = (0.03, 0.05, 0.07, 0.1, 0.15, 0.2)

_ABOUT = """\
The default was not chosen by these runs, as they are what it is tested on. A larger least gain comes nearer to the
midpoint where the gain grows far, and late, or never, where hints tell little (as with the middle block only)."""


def thresholds(related: Sequence[Findings], unrelated: Sequence[Findings]) -> list[str]:
    """A line for each least gain."""
    low, high = FOLLOWING_WITHIN
    lines = [_ABOUT, "", *head(["`following_gain`", "missed", f"within {low:+.0%} to {high:+.0%}", "median", "from, to",
                                "false alarms"])]  # fmt: skip
    converged = [one for one in related if one.middle is not None]
    for gain in GAINS:
        found = [one.offset(_following(one, gain)) for one in converged]
        offsets = [offset for offset in found if offset is not None]
        inside = sum(low <= offset <= high for offset in offsets)
        alarms = sum(_following(one, gain) is not None for one in unrelated)
        cells = [f"{gain:g}", f"{len(found) - len(offsets)} of {len(found)}", f"{inside} of {len(found)}"]
        cells += [f"{median(offsets):+.0%}", f"{min(offsets):+.0%}, {max(offsets):+.0%}"] if offsets else ["-", "-"]
        lines.append(row([*cells, f"{alarms} of {len(unrelated)}"]))
    return lines


def _following(one: Findings, gain: float) -> int | None:
    events = replay(one.report.detector.evaluations, ConvergenceOptions(following_gain=gain)).events
    return events["control_following"].update if "control_following" in events else None
