"""Rows, numbers and verdicts as the tables of convergence_study.py write them."""

from collections.abc import Sequence

from convergence_findings import Findings

FOLLOWING_WITHIN = (-0.40, 0.10)
"""Where `following` is to come, from the midpoint of controllability, as a part of the way to it."""


def head(names: Sequence[str]) -> list[str]:
    """The head of a table."""
    return [row(names), "|" + "---|" * len(names)]


def row(cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def update_of(update: float | None) -> str:
    """An update, or a dash."""
    return "-" if update is None else f"{update:.0f}"


def off(one: Findings, update: float | None) -> str:
    """An update, and in brackets how far it is from the midpoint."""
    offset = one.offset(update)
    return update_of(update) if offset is None else f"{update_of(update)} ({offset:+.0%})"


def target(what: str, is_reached: bool, said: str) -> str:  # noqa: FBT001
    """What was to be reached, whether it was, and the numbers."""
    return f"- {what}: {'reached' if is_reached else '**not reached**'} ({said})."


def largest_sensitivity(one: Findings) -> float:
    """The largest S of a run."""
    return max(each.sensitivity or 0.0 for each in one.report.detector.evaluations)
