"""What convergence_study.py says of the options that let a ControlNet converge sooner."""

from collections.abc import Sequence
from statistics import fmean, median

from convergence_findings import Findings
from convergence_words import head, largest_sensitivity, row, update_of

_SOONER = """\
Learning rate 3e-4, {updates} updates each, seeds other than above. Overlap and F1: own hint less another row's, means
over the last 15 % of the run and over seeds."""

_OPTIONS = {
    "plain": "default, all timesteps",
    "range": "default, t >= 300 until converged",
    "init": "kaiming, all timesteps",
    "both": "kaiming, t >= 300 until converged",
}


def tables_of_sooner(found: Sequence[Findings]) -> list[str]:
    """With and without each option."""
    num_updates = found[0].spec.updates
    lines = [_SOONER.format(updates=num_updates), ""]
    lines += head(
        [
            "`hint_init`, timesteps while searching",
            "`following`, by seed",
            "overlap at the end",
            "F1 at the end",
            "largest S",
        ]
    )
    reached: dict[str, list[int]] = {}
    for name, meaning in _OPTIONS.items():
        runs = [one for one in found if one.spec.what == name]
        if not runs:
            continue
        reached[name] = [one.values["following"] for one in runs if one.values["following"] is not None]
        cells = [meaning, ", ".join(update_of(one.values["following"]) for one in runs)]
        cells += [f"{fmean(one.overlap_at_end for one in runs):.2f}", f"{fmean(one.f1_at_end for one in runs):.2f}"]
        lines.append(row([*cells, f"{max(map(largest_sensitivity, runs)):.2g}"]))
    lines.append("")
    pairs = [("init", "plain"), ("range", "plain"), ("both", "init")]
    return [*lines, *(_compared(*pair, reached, num_updates) for pair in pairs if set(pair) <= set(reached))]


def _compared(name: str, other: str, reached: dict[str, list[int]], num_updates: int) -> str:
    said = f"- {_OPTIONS[name]}, against {_OPTIONS[other]}: "
    silent = [_OPTIONS[each] for each in (name, other) if not reached[each]]
    if silent:
        return f"{said}no run of {' or of '.join(silent)} converged within {num_updates} updates."
    ours, theirs = median(reached[name]), median(reached[other])
    return f"{said}`following` after {ours / theirs:.2f} times the updates (medians {ours:.0f} and {theirs:.0f})."
