"""What `following` would be with another high gain: the runs' evaluations, given to the detector once more."""

from collections.abc import Sequence
from statistics import median

from convergence_findings import Findings
from convergence_words import FOLLOWING_WITHIN, head, row

from controlmill.config.convergence import ConvergenceOptions
from training.convergence import replay

GAINS = (0.03, 0.05, 0.07, 0.1, 0.15, 0.2)

_ABOUT = """\
The gain at which a rise counts as well begun; where hints tell little (as with the middle block only), its bend
decides. The default was chosen by the runs of 2026-11-20: on these seeds the table is no independent test of it."""


def thresholds(related: Sequence[Findings], unrelated: Sequence[Findings]) -> list[str]:
    """A line for each high gain."""
    low, high = FOLLOWING_WITHIN
    named = ["`following_high_gain`", "missed", f"within {low:+.0%} to {high:+.0%}", "median", "from, to"]
    lines = [_ABOUT, "", *head([*named, "false alarms"])]
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
    events = replay(one.report.detector.evaluations, ConvergenceOptions(following_high_gain=gain)).events
    return events["control_following"].update if "control_following" in events else None
