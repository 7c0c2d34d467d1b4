"""One picture of a run: the training loss that shows nothing, and the control gain and sensitivity that do.

matplotlib is imported where it is used, its Figure without pyplot: no window system, no global state.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from controlmill.errors import RunUnusableError, StorageWriteError
from training.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_METRICS, _CONTROLLABILITY = "metrics.jsonl", "controllability.jsonl"
_LOSS, _GAIN, _SENSITIVITY = "#6b7280", "#1d4ed8", "#b45309"
_EVENT, _BAND = "#dc2626", "#fca5a5"
_LIFTS = ("#047857", "#7c3aed", "#0e7490", "#be185d")
_MAX_BINS = 150


def write_plot(report: Report, target: Path) -> None:
    """Draw the run of `report` into a .png, .svg or .pdf, with what metrics lie beside the probe log.

    Raises:
        RunUnusableError: a line of those files is broken.
        StorageWriteError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    losses = [(line["update"], line["loss"]) for line in _read(report.file.with_name(_METRICS), "loss")]
    lifts = list(_read(report.file.with_name(_CONTROLLABILITY), "lift"))
    sensitivities = [(one.update, one.sensitivity) for one in report.detector.evaluations if one.sensitivity]
    panels: list[tuple[Any, Any, float]] = [
        (_draw_loss, losses, 1.0), (_draw_gain, report, 1.7), (_draw_sensitivity, (sensitivities, report), 1.3),
        (_draw_lift, lifts, 1.2),
    ]  # fmt: skip
    shown = [panel for panel in panels if panel[1] and panel[1] != ([], report)]
    figure = Figure(figsize=(9, 1.0 + 1.75 * sum(height for *_, height in shown)), layout="constrained")
    grid = figure.subplots(
        len(shown), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": [height for *_, height in shown]}
    )
    axes: list[Axes] = list(grid[:, 0])
    for ax, (draw, data, _) in zip(axes, shown, strict=True):
        draw(ax, data)
        _mark(ax, report, with_text=draw is _draw_gain)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#e5e7eb", linewidth=0.6)
        ax.margins(x=0.01)
    axes[-1].set_xlabel("update (optimizer step)")
    axes[-1].xaxis.set_major_formatter("{x:,.0f}")
    figure.suptitle(report.title(), x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.align_ylabels(axes)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=150)
    except OSError as error:
        raise StorageWriteError(f"{target}: cannot write the plot: {error.strerror}") from error


def _read(file: Path, field: str) -> Iterable[dict[str, Any]]:
    """Lines of a log beside the probe's that have an update and `field`; nothing where there is no such log."""
    if not file.is_file():
        return
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            line = json.loads(text) if text.strip() else {}
        except json.JSONDecodeError as error:
            raise RunUnusableError(f"{file}:{number}: not JSON: {error.msg} at column {error.colno}") from error
        if isinstance(line, dict) and isinstance(line.get("update"), int) and line.get(field) is not None:
            yield line


def binned(points: Sequence[tuple[int, float]], num_bins: int = _MAX_BINS) -> list[tuple[float, float, float, float]]:
    """Mean update, mean, lowest and highest value of up to `num_bins` runs of neighbours, none of them NaN."""
    finite = [(update, value) for update, value in points if math.isfinite(value)]
    size = max(1, math.ceil(len(finite) / num_bins))
    bins = [finite[start : start + size] for start in range(0, len(finite), size)]
    return [
        (fmean(update for update, _ in one), fmean(values), min(values), max(values))
        for one in bins
        for values in [[value for _, value in one]]
    ]


def _draw_loss(ax: "Axes", losses: list[tuple[int, float]]) -> None:
    bins = binned(losses)
    updates, means, lows, highs = zip(*bins, strict=True) if bins else ((), (), (), ())
    ax.fill_between(updates, lows, highs, color=_LOSS, alpha=0.2, linewidth=0)
    ax.plot(updates, means, color=_LOSS, linewidth=1.2)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("training loss")


def _draw_gain(ax: "Axes", report: Report) -> None:
    updates, gains = zip(*report.detector.curve, strict=True) if report.detector.curve else ((), ())
    least = report.detector.options.following_gain
    ax.axhline(least, color=_GAIN, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.7)
    ax.annotate(
        f"{least:g}: following", (1, least), (-2, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
        ha="right", fontsize=8, color=_GAIN,
    )  # fmt: skip
    ax.plot(updates, gains, color=_GAIN, linewidth=1.6, marker="o", markersize=3)
    ax.set_ylim(min(-0.02, min(gains, default=0) * 1.1), max(0.1, max(gains, default=0) * 1.15))
    ax.set_ylabel("control gain")


def _draw_sensitivity(ax: "Axes", data: tuple[list[tuple[int, float]], Report]) -> None:
    points, report = data
    ax.plot(*zip(*points, strict=True), color=_SENSITIVITY, linewidth=1.6, marker="o", markersize=3)
    ax.set_yscale("log")
    ax.set_ylabel("sensitivity S\nto the hint (log)")
    ax.axhline(1, color=_SENSITIVITY, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.7)
    for first in report.detector.forecasts[:1]:
        start = dict(points)[first.update]
        ax.plot([first.update, first.expected], [start, 1], color=_SENSITIVITY, linewidth=1, linestyle=(0, (2, 2)))
        ax.plot([first.low, first.high], [1, 1], color=_SENSITIVITY, linewidth=5, alpha=0.35, solid_capstyle="butt")
        ax.plot([first.expected], [1], color=_SENSITIVITY, marker="D", markersize=6)
        ax.plot([first.update], [start], color=_SENSITIVITY, marker="o", markersize=7, fillstyle="none")
        ax.annotate(
            f"forecast at update {first.update:,}:\n{first.sentence()}", (first.expected, start), (8, 0),
            textcoords="offset points", fontsize=8, color=_SENSITIVITY, va="center",
        )  # fmt: skip


def _draw_lift(ax: "Axes", lines: list[dict[str, Any]]) -> None:
    """`lift` maps condition to lift: 0 with the control off, 1 where samples are read back like the real images."""
    for number, name in enumerate(sorted({name for line in lines for name in line["lift"]})):
        points = [(line["update"], line["lift"][name]) for line in lines if name in line["lift"]]
        color = _LIFTS[number % len(_LIFTS)]
        ax.plot(*zip(*points, strict=True), color=color, linewidth=1.6, marker="o", markersize=3, label=name)
    ax.set_ylabel("controllability\n(lift)")
    ax.legend(loc="upper left", frameon=False, fontsize=8)


def _mark(ax: "Axes", report: Report, *, with_text: bool) -> None:
    values = report.to_json()
    if values["ci95"] is not None:
        ax.axvspan(*values["ci95"], color=_BAND, alpha=0.35, linewidth=0)
    marks = [
        (values["onset"], "onset", "right", 0.06), (values["following"], "sudden convergence\ndetected", "right", 0.60),
        (values["settled"], "settled", "left", 0.06),
    ]  # fmt: skip
    for update, text, side, height in marks:
        if update is None:
            continue
        strong = update == values["following"] and text != "onset"
        ax.axvline(update, color=_EVENT, linestyle="-" if strong else ":", linewidth=1.4 if strong else 1.0)
        if with_text:
            ax.annotate(
                f"{text}\n{update:,}", (update, height), (-5 if side == "right" else 5, 0), ha=side,
                xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8, color=_EVENT,
                fontweight="bold" if strong else "normal",
            )  # fmt: skip
