"""The figure of convergence_study.py: every run in one panel, the training loss beside gain and controllability."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convergence_findings import Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 4
_LOSS, _GAIN, _TRUTH, _EVENT = "#9ca3af", "#1d4ed8", "#047857", "#dc2626"


def draw(found: Sequence[Findings], target: Path) -> None:
    """One panel per run, into a .png."""
    from matplotlib.figure import Figure

    num_rows = -(-len(found) // _COLUMNS)
    figure = Figure(figsize=(4 * _COLUMNS, 2.6 * num_rows + 0.6), layout="constrained")
    grid = figure.subplots(num_rows, _COLUMNS, squeeze=False)
    for number, ax in enumerate(grid.flat):
        if number < len(found):
            _panel(ax, found[number])
        else:
            ax.set_visible(False)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    figure.savefig(target, dpi=90)


def _panel(ax: "Axes", one: Findings) -> None:
    start = sum(loss for _, loss in one.losses[:3]) / 3
    ax.plot(*_columns([(x, loss / start) for x, loss in one.losses]), color=_LOSS, linewidth=1.2,
            label="training loss, of its start")  # fmt: skip
    ax.plot(*_columns(one.report.detector.curve), color=_GAIN, linewidth=1.8, label="control gain")
    ax.plot(*_columns(one.overlap), color=_TRUTH, linewidth=1.8, marker="o", markersize=3,
            label="controllability (overlap)")  # fmt: skip
    following = one.values["following"]
    if following is not None:
        ax.axvline(following, color=_EVENT, linewidth=1.4)
    for update, color, label in (
        (one.middle, _TRUTH, "its midpoint"), (one.values["convergence_update"], _GAIN, "s50"),
    ):  # fmt: skip
        if update is not None:
            ax.axvline(update, color=color, linewidth=1.2, linestyle=":", label=label)
    ax.plot([], [], color=_EVENT, linewidth=1.4, label="following")
    ax.set_ylim(-0.1, 1.6)
    ax.set_title(f"{one.spec.name}: {'hints of others, ' if one.spec.is_unrelated else ''}{one.spec.what}", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
