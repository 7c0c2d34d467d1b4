"""The words and tables of convergence_study.py, all made from what the runs left."""

from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from convergence_findings import Findings
from convergence_sooner import tables_of_sooner
from convergence_thresholds import thresholds
from convergence_words import FOLLOWING_WITHIN, head, largest_sensitivity, off, row, target, update_of

_WAYS = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
_MOST_OFFSET = 0.08
_FORECAST_BY, _FORECAST_WITHIN, _FORECAST_IN = 0.75, 0.25, 0.80
_MOST_COST = 0.03

_ABOUT = """\
ControlNets on the small Stable Diffusion of `examples/tiny_sd`, {rows:,} discs of 128 x 128 with Canny's edges,
batches of 16, latents and prompts encoded before, `hint_init: kaiming`, one thread. One base, and one small model:
numbers of updates say nothing of others.

Controllability, the truth here: the first 24 held-out rows, sampled (DDIM, 8 steps, guidance 2, the same noise each
time) at every evaluation from S = 0.1 on; the overlap of the disc in the sample with the one its hint wants, less that
with another row's. Its midpoint lies halfway between the means of the first and the last 15 % of the run; samples get
better to the end, so that a longer run has its midpoint later, and s50 too. Overlap is taken, as F1 of edges without
tolerance (in brackets) counts a disc that is a pixel off as a miss.

Rules and constants of the detector were set on seven runs of a model of 16 pixels, which are not here. That s50 is
taken on the gain, and neither on its log ratio nor on wrong / right - 1, was settled on the first eight of these runs:
their medians were 8, 9 and 38 %. So the distance of s50 below is not an independent test of that choice."""


_LOSS_RULES = """\
The rule of `following`, on the training loss between two evaluations: 5 % below that of the first three, p < 0.001
(Welch), twice in a row. The rule of s50, on the same: the one change point that it is forced to name."""


def tables(found: Sequence[Findings], sooner: Sequence[Findings], costs: dict[str, dict[str, Any]]) -> list[str]:
    """The whole result but for its heading and its figure."""
    from convergence_runs import NUM_ROWS

    related = [one for one in found if not one.spec.is_unrelated]
    unrelated = [one for one in found if one.spec.is_unrelated]
    lines = [_ABOUT.format(rows=NUM_ROWS)]
    if related:
        lines += ["", "## Runs that converge", "", *_related(related)]
    if unrelated:
        lines += ["", "## Hints of other images", "", *_unrelated(unrelated)]
    if related:
        lines += ["", "## What was to be reached", "", *_targets(related, unrelated)]
        lines += ["", "## Other thresholds of `following`", "", *thresholds(related, unrelated)]
        lines += ["", "## Forecasts", "", *_forecasts(related, unrelated)]
        lines += ["", "## What the training loss alone shows", "", *_losses(related, unrelated)]
    if sooner:
        lines += ["", "## Converge sooner", "", *tables_of_sooner(sooner)]
    if costs:
        lines += ["", "## What the probe costs", "", *_costs(costs)]
    return lines


def _related(found: Sequence[Findings]) -> list[str]:
    names = ["run", "", "updates", "midpoint, 95 % (by F1)", "`following`", "s50 at `settled`", "s50 of the whole run",
             "95 % interval", "label (R, rho)", "largest gain", "overlap at the end"]  # fmt: skip
    lines = head(names)
    for one in found:
        values = one.values
        shape = ", ".join("-" if values[name] is None else f"{values[name]:.2f}" for name in ("R", "rho"))
        cells = [
            one.spec.name, one.spec.what, str(one.spec.updates),
            _middle(one),
            off(one, values["following"]), off(one, one.s50_when_settled), off(one, values["convergence_update"]),
            f"{_interval(values['ci95'])}{_holds(one)}", f"{values['label'] or '-'} ({shape})",
            f"{values['max_gain']:.2f}", f"{one.overlap_at_end:.2f}",
        ]  # fmt: skip
        lines.append(row(cells))
    return [*lines, "", "In brackets the distance from the midpoint, as a part of the way to it."]


def _middle(one: Findings) -> str:
    if one.middle is None or one.middle_interval is None:
        return "-"
    return f"{update_of(one.middle)}, {_interval(one.middle_interval)} ({update_of(one.middle_f1)})"


def _interval(bounds: Sequence[float] | None) -> str:
    return "-" if bounds is None else f"{bounds[0]:.0f} to {bounds[1]:.0f}"


def _holds(one: Findings) -> str:
    bounds, middle = one.values["ci95"], one.middle
    if bounds is None or middle is None:
        return ""
    return ", holds it" if bounds[0] <= middle <= bounds[1] else ""


def _unrelated(found: Sequence[Findings]) -> list[str]:
    names = ["run", "", "updates", "evaluations", "`onset`", "`following`", "largest gain", "largest S", "forecasts"]
    lines = head(names)
    for one in found:
        values, seen = one.values, one.report.detector.evaluations
        cells = [
            one.spec.name, one.spec.what, str(one.spec.updates), str(len(seen)), update_of(values["onset"]),
            update_of(values["following"]), f"{values['max_gain']:.4f}", f"{largest_sensitivity(one):.2f}",
            str(len(values["forecasts"])),
        ]  # fmt: skip
        lines.append(row(cells))
    return lines


def _targets(related: Sequence[Findings], unrelated: Sequence[Findings]) -> list[str]:
    low, high = FOLLOWING_WITHIN
    alarms = [one for one in unrelated if one.values["following"] is not None]
    converged = [one for one in related if one.has_converged]
    missed = [one for one in converged if one.values["following"] is None]
    early = [one.offset(one.values["following"]) for one in related]
    following = [offset for offset in early if offset is not None]
    inside = [offset for offset in following if low <= offset <= high]
    lines = [
        target("no false alarm", not alarms, f"{len(alarms)} of {len(unrelated)} negative controls"),
        target("no miss", not missed, f"{len(missed)} of {len(converged)} runs whose samples obey their hints"),
    ]
    if following:
        span = f"median {median(following):+.0%}, from {min(following):+.0%} to {max(following):+.0%}"
        what = f"`following` within {low:+.0%} to {high:+.0%} of the midpoint"
        said = f"{len(inside)} of {len(following)} runs; {span}"
        lines.append(target(what, len(inside) == len(following), said))
    for name, updates in (
        ("s50 of the whole run", [one.values["convergence_update"] for one in related]),
        ("s50 at `settled`", [one.s50_when_settled for one in related]),
    ):
        offsets = [one.offset(at) for one, at in zip(related, updates, strict=True)]
        lines += _offset_target(name, [offset for offset in offsets if offset is not None], len(related))
    with_interval = [one for one in related if one.values["ci95"] is not None and one.middle is not None]
    num_holding = sum(bool(_holds(one)) for one in with_interval)
    lines.append(f"- The 95 % interval holds the midpoint in {num_holding} of {len(with_interval)} runs.")
    return [*lines, *_certainty(related), _forecast_target(related)]


def _certainty(related: Sequence[Findings]) -> list[str]:
    """How well the midpoint itself is known."""
    known = [(one, one.middle, one.middle_interval) for one in related if one.middle and one.middle_interval]
    if not known:
        return []
    half = median((bounds[1] - bounds[0]) / 2 / middle for _, middle, bounds in known)
    updates = [(one.values["convergence_update"], bounds) for one, _, bounds in known]
    inside = sum(at is not None and bounds[0] <= at <= bounds[1] for at, bounds in updates)
    said = (
        f"- The midpoint is itself known to {half:.0%} in the median (half of the 95 % interval, rows drawn anew 200 "
        f"times); s50 of the whole run lies in that interval in {inside} of {len(known)} runs. Distances below it say "
        "little: telling 8 % apart would take many times as many samples."
    )
    return [said]


def _offset_target(name: str, offsets: list[float], num_runs: int) -> list[str]:
    if not offsets:
        return []
    middle = median(abs(offset) for offset in offsets)
    span = f"signed median {median(offsets):+.1%}, from {min(offsets):+.0%} to {max(offsets):+.0%}"
    what = f"{name}: median distance from the midpoint at most {_MOST_OFFSET:.0%}"
    return [target(what, middle <= _MOST_OFFSET, f"{middle:.1%} over {len(offsets)} of {num_runs} runs; {span}")]


def _last_forecast(one: Findings) -> float | None:
    """Error of the last forecast made at or before 75 % of the way to `following`; None where there was none."""
    following = one.values["following"]
    if following is None:
        return None
    made = [each["expected"] for each in one.values["forecasts"] if each["update"] <= _FORECAST_BY * following]
    return made[-1] / following - 1 if made else None


def _forecast_target(related: Sequence[Findings]) -> str:
    last = [_last_forecast(one) for one in related]
    made = [error for error in last if error is not None]
    near = [error for error in made if abs(error) <= _FORECAST_WITHIN]
    share = len(near) / len(related)
    within = f"within {_FORECAST_WITHIN:.0%} in {_FORECAST_IN:.0%} of runs"
    said = f"{len(near)} of {len(related)} runs, {share:.0%}; {len(related) - len(made)} had made none by then"
    return target(f"the last forecast by {_FORECAST_BY:.0%} of the way {within}", share >= _FORECAST_IN, said)


def _forecasts(related: Sequence[Findings], unrelated: Sequence[Findings]) -> list[str]:
    lines = ["A forecast says when `following` is to come, and is compared with when it came.", ""]
    lines += head(
        ["made at, of the way", "forecasts", "in runs", "within 25 %", "median error", "largest", "interval holds it"]
    )
    for low, high in _WAYS:
        made = [
            (one.spec.name, each["expected"] / following - 1, each["low"] <= following <= each["high"])
            for one in related
            if (following := one.values["following"]) is not None
            for each in one.values["forecasts"]
            if low < each["update"] / following <= high
        ]
        cells = [f"{low:.0%} to {high:.0%}", str(len(made)), str(len({name for name, *_ in made}))]
        if made:
            errors = [error for _, error, _ in made]
            near = sum(abs(error) <= _FORECAST_WITHIN for error in errors) / len(made)
            holding = sum(holds for *_, holds in made) / len(made)
            largest = max(errors, key=abs)
            cells += [f"{near:.0%}", f"{median(errors):+.0%}", f"{largest:+.0%}", f"{holding:.0%}"]
        lines.append(row(cells + ["-"] * (7 - len(cells))))
    wrong = sum(len(one.values["forecasts"]) for one in unrelated)
    num_wrong = sum(bool(one.values["forecasts"]) for one in unrelated)
    return [
        *lines,
        "",
        f"Forecasts on hints of other images: {wrong}, in {num_wrong} of {len(unrelated)} runs.",
    ]


def _losses(related: Sequence[Findings], unrelated: Sequence[Findings]) -> list[str]:
    lines = [_LOSS_RULES, ""]
    lines += head(
        ["run", "", "midpoint", "loss at the start, at the end", "`following` of the loss", "s50 of the loss"]
    )
    for one in [*related, *unrelated]:
        start, end = fmean(loss for _, loss in one.losses[:3]), fmean(loss for _, loss in one.losses[-3:])
        fall = f"{start:.4f}, {end:.4f} ({end / start - 1:+.0%})"
        cells = [one.spec.name, one.spec.what, update_of(one.middle), fall]
        lines.append(row([*cells, off(one, one.loss_fell_at), off(one, one.loss_step)]))
    lines.append("")
    for title, is_late in (("all timesteps", False), ("timesteps from 300 on", True)):
        lines.append(_loss_sentence(title, [one for one in related if one.is_late == is_late],
                                    [one for one in unrelated if one.is_late == is_late]))  # fmt: skip
    return lines


def _loss_sentence(title: str, related: Sequence[Findings], unrelated: Sequence[Findings]) -> str:
    found = [one.offset(one.loss_fell_at) for one in related if one.loss_fell_at is not None]
    offsets = [offset for offset in found if offset is not None]
    near = sum(FOLLOWING_WITHIN[0] <= offset <= FOLLOWING_WITHIN[1] for offset in offsets)
    forced = [abs(offset) for one in related if (offset := one.offset(one.loss_step)) is not None]
    alarms = sum(one.loss_fell_at is not None for one in unrelated)
    named = sum(one.loss_step is not None for one in unrelated)
    within = f"within {FOLLOWING_WITHIN[0]:+.0%} to {FOLLOWING_WITHIN[1]:+.0%} of the midpoint"
    away = f"{median(forced):.0%}" if forced else "-"
    return (
        f"- Trained on {title}: the loss tells of something in {len(found)} of {len(related)} runs, in {near} "
        f"of them {within}, and in {alarms} of {len(unrelated)} negative controls. The forced change point is a median "
        f"of {away} away, and is also named on {named} of {len(unrelated)} negative controls."
    )


def _costs(costs: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    probe = costs.get("cost-with", {}).get("probe")
    if probe:
        share = float(str(probe["share_of_training"]).rstrip("%")) / 100
        what = f"at most {_MOST_COST:.0%} of training time at the default interval"
        lines.append(target(what, share <= _MOST_COST, f"`probe_cost` says {share:.1%}, {probe['seconds']} s"))
    if len(costs) == 2:
        with_s, without_s = (costs[name]["cpu_s"] for name in ("cost-with", "cost-without"))
        more = f"{with_s / without_s - 1:+.1%}"
        lines.append(f"- CPU seconds of the loop with the probe {with_s:.1f}, without {without_s:.1f}: {more}.")
    return lines
