"""One picture of a run: the training loss that shows little, and the control gain and sensitivity that do.

matplotlib is imported where it is used, its Figure without pyplot: no window system, no global state.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from controlmill.errors import StorageWriteError
from training.json_lines import is_number, json_lines
from training.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_METRICS, _CONTROLLABILITY = "metrics.jsonl", "controllability.jsonl"
_MAX_BINS = 150
_DASHED: Final = (0, (4, 3))


@dataclass(frozen=True, slots=True)
class Look:
    """Size and colours of a picture."""

    width_in: float = 9.0
    """Inches; the text stays as large."""
    titled: bool = True
    """Whether the verdict stands above it."""
    paper: str = "#ffffff"
    ink: str = "#1f2328"
    grid: str = "#e5e7eb"
    loss: str = "#6b7280"
    gain: str = "#1d4ed8"
    sensitivity: str = "#b45309"
    event: str = "#dc2626"
    band: str = "#fca5a5"
    samples: Sequence[str] = ("#047857", "#7c3aed", "#0e7490", "#be185d")


LIGHT = Look()
DARK_COLOURS: Final = {
    "paper": "#14171c", "ink": "#d7dce2", "grid": "#2b3138", "loss": "#9aa3ad", "gain": "#7aa7ff",
    "sensitivity": "#f0a550", "event": "#ff6b6b", "band": "#7f1d1d",
    "samples": ("#3ecf9a", "#b79bff", "#4cc9e0", "#ff7fb8"),
}  # fmt: skip


def write_plot(report: Report, target: Path, look: Look = LIGHT) -> None:
    """Draw the run of `report` into a .png, .svg or .pdf, with what metrics lie beside the probe log.

    Raises:
        RunUnusableError: a line of those files is broken.
        StorageWriteError: the picture cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_settings(look)):
        figure = Figure(layout="constrained")
        _draw(figure, report, look)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(target, dpi=150, metadata={"Date": None} if target.suffix == ".svg" else None)
        except OSError as error:
            raise StorageWriteError(f"{target}: cannot write the plot: {error.strerror}") from error


def _settings(look: Look) -> Any:
    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    papers = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    return {**dict.fromkeys(inks, look.ink), **dict.fromkeys(papers, look.paper), "svg.hashsalt": "controlmill"}


def _draw(figure: Any, report: Report, look: Look) -> None:
    losses = [(line["update"], line["loss"]) for line in _read(report.file.with_name(_METRICS), "loss")]
    samples = [one for one in _read(report.file.with_name(_CONTROLLABILITY), "mean_own") if "measure" in one]
    sensitivities = [(one.update, one.sensitivity) for one in report.detector.evaluations if one.sensitivity]
    panels: list[tuple[Any, Any, float]] = [
        (_draw_loss, losses, 1.0), (_draw_gain, report, 1.7), (_draw_sensitivity, (sensitivities, report), 1.3),
        (_draw_samples, samples, 1.3),
    ]  # fmt: skip
    shown = [panel for panel in panels if panel[1] and panel[1] != ([], report)]
    heights = [height for *_, height in shown]
    figure.set_size_inches(look.width_in, 1.0 + 1.75 * sum(heights))
    grid = figure.subplots(len(shown), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})
    axes: list[Axes] = list(grid[:, 0])
    for ax, (draw, data, _) in zip(axes, shown, strict=True):
        draw(ax, data, look)
        _mark(ax, report, look, with_text=draw is _draw_gain)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color=look.grid, linewidth=0.6)
        ax.margins(x=0.01)
    axes[-1].set_xlabel("update (optimizer step)")
    axes[-1].xaxis.set_major_formatter("{x:,.0f}")
    if look.titled:
        title = textwrap.fill(report.title(), round(10 * look.width_in))
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.align_ylabels(axes)


def _read(file: Path, field: str) -> Iterable[dict[str, Any]]:
    """Lines of a log beside the probe's with numbers for update and `field`; nothing where there is no such log."""
    for _, line in json_lines(file, "log") if file.is_file() else ():
        if isinstance(line, dict) and all(is_number(line.get(name)) for name in ("update", field)):
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


def _draw_loss(ax: "Axes", losses: list[tuple[int, float]], look: Look) -> None:
    bins = binned(losses)
    updates, means, lows, highs = zip(*bins, strict=True) if bins else ((), (), (), ())
    ax.fill_between(updates, lows, highs, color=look.loss, alpha=0.2, linewidth=0)
    ax.plot(updates, means, color=look.loss, linewidth=1.2)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("training loss")


def _draw_gain(ax: "Axes", report: Report, look: Look) -> None:
    updates, gains = zip(*report.detector.curve, strict=True) if report.detector.curve else ((), ())
    options = report.detector.options
    for level, text in ((options.following_high_gain, "following"), (options.following_gain, "once it has bent")):
        ax.axhline(level, color=look.gain, linewidth=0.8, linestyle=_DASHED, alpha=0.7)
        ax.annotate(
            f"{level:g}: {text}", (1, level), (-2, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", fontsize=8, color=look.gain,
        )  # fmt: skip
    ax.plot(updates, gains, color=look.gain, linewidth=1.6, marker="o", markersize=3)
    ax.set_ylim(min(-0.02, min(gains, default=0) * 1.1), max(0.1, max(gains, default=0) * 1.15))
    ax.set_ylabel("control gain")


def _draw_sensitivity(ax: "Axes", data: tuple[list[tuple[int, float]], Report], look: Look) -> None:
    points, report = data
    color = look.sensitivity
    ax.plot(*zip(*points, strict=True), color=color, linewidth=1.6, marker="o", markersize=3)
    ax.set_yscale("log")
    ax.set_ylabel("sensitivity S\nto the hint (log)")
    ax.axhline(1, color=color, linewidth=0.8, linestyle=_DASHED, alpha=0.7)
    for first in report.detector.forecasts[:1]:
        start = dict(points)[first.update]
        cone = [first.update, first.low, first.high]
        ax.fill(cone, [start, 1, 1], color=color, alpha=0.16, linewidth=0)
        ax.plot([first.update, first.expected], [start, 1], color=color, linewidth=1, linestyle=(0, (2, 2)))
        ax.plot([first.low, first.high], [1, 1], color=color, linewidth=5, alpha=0.35, solid_capstyle="butt")
        ax.plot([first.expected], [1], color=color, marker="D", markersize=6)
        ax.plot([first.update], [start], color=color, marker="o", markersize=7, fillstyle="none")
        text = f"forecast at update {first.update:,}:\n" + textwrap.fill(first.sentence(), 40)
        ax.annotate(
            text, (1, 0.05), (-2, 0), xycoords="axes fraction", textcoords="offset points", fontsize=8, color=color,
            ha="right", va="bottom",
        )  # fmt: skip


def _draw_samples(ax: "Axes", lines: list[dict[str, Any]], look: Look) -> None:
    """How well pictures obey their hint, another row's hint, and what is to be had at all."""
    for number, measure in enumerate(sorted({str(line["measure"]) for line in lines})):
        mine = [line for line in lines if str(line["measure"]) == measure]
        updates = [line["update"] for line in mine]
        color = look.samples[number % len(look.samples)]
        own = [line["mean_own"] for line in mine]
        ax.plot(updates, own, color=color, linewidth=1.6, marker="o", markersize=3, label=f"{measure}, own hint")
        if all(is_number(line.get("mean_other")) for line in mine):
            others = [line["mean_other"] for line in mine]
            ax.plot(updates, others, color=color, linewidth=1, linestyle=_DASHED, label="another hint")
        if is_number(mine[-1].get("real")):
            ax.axhline(mine[-1]["real"], color=color, linewidth=0.8, linestyle=":", label="the real images")
    ax.set_ylabel("controllability\nof samples")
    ax.legend(loc="upper left", frameon=False, fontsize=8)


def _mark(ax: "Axes", report: Report, look: Look, *, with_text: bool) -> None:
    values = report.to_json()
    if values["ci95"] is not None:
        ax.axvspan(*values["ci95"], color=look.band, alpha=0.35, linewidth=0)
    marks = [
        (values["onset"], "onset", "right", 0.06), (values["following"], "sudden convergence\ndetected", "right", 0.60),
        (values["settled"], "settled", "left", 0.06),
    ]  # fmt: skip
    for update, text, side, height in marks:
        if update is None:
            continue
        strong = update == values["following"] and text != "onset"
        ax.axvline(update, color=look.event, linestyle="-" if strong else ":", linewidth=1.4 if strong else 1.0)
        if with_text:
            ax.annotate(
                f"{text}\n{update:,}", (update, height), (-5 if side == "right" else 5, 0), ha=side,
                xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8, color=look.event,
                fontweight="bold" if strong else "normal",
            )  # fmt: skip
