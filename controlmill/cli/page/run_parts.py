"""What the page says of a run: verdict, curves, pictures, forecasts, events, options."""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controlmill.cli.page.files import read_lines
from controlmill.cli.page.html import Column, Html, data_uri, element, facts, image, section, table, text
from controlmill.cli.training_events import sentence
from training.metrics import SAMPLES

if TYPE_CHECKING:
    from training.report import Report

_PHONE = "(max-width: 640px)"
_DARK = "(prefers-color-scheme: dark)"
_SECRETS = frozenset({"webhook_url"})


def head(run: Path, address: str, options: Mapping[str, Any], report: "Report | None") -> Html:
    """The verdict, and what is known at a glance."""
    if report is None:
        title, said = "This run has no probe", "Nothing says whether it follows its hints: num_probe_rows was 0."
    else:
        title = report.title()
        said = "; ".join(re.findall(r"\(([^)]*)\)", report.verdict()))
    metrics, confirmation = read_lines(run / "metrics.jsonl"), _confirmation(run)
    last = metrics[-1] if metrics else {}
    known: list[tuple[str, str]] = [
        ("updates", f"{last.get('update', 0):,}"),
        ("samples seen", f"{last.get('samples_seen', 0):,}"),
        ("condition", ", ".join(options.get("condition", []))),
        ("learning rate", f"{options.get('learning_rate', 0):g}"),
    ]
    if report is not None and report.detector.max_gain is not None:
        known.append(("largest control gain", f"{report.detector.max_gain:.3f}"))
    if report is not None and report.detector.forecasts:
        first = report.detector.forecasts[0]
        known.append(("first forecast", f"update {first.expected:,}"))
    over = element("p", f"controlmill report of {address}", class_="over")
    details = element("p", said, class_="pale") if said else ""
    return element("header", over, element("h1", f"{title.rstrip('.')}."), details, confirmation, facts(known))


def _confirmation(run: Path) -> Html:
    """Whether pictures confirm what the gain says."""
    found = [line for line in read_lines(run / "events.jsonl") if line.get("event") == "control_confirmed"]
    if not found:
        return Html("")
    last = found[-1]
    scores = "".join(
        f", {meaning} {last[name]:.3f}"
        for name, meaning in (("own", "own hint"), ("other", "another row's hint"), ("off", "control off"))
        if isinstance(last.get(name), int | float)
    )
    said = "Generated images confirm it" if last.get("confirmed") else "Generated images do not confirm it yet"
    body = f" (update {last['update']:,}; {last.get('measure', 'score')}{scores})."
    return element("p", element("strong", said, class_="good" if last.get("confirmed") else "warn"), body)


def curves(report: "Report") -> Html:
    """The plot, as wide and as dark as the reader's window is."""
    from training.plot import DARK_COLOURS, Look, write_plot

    sources: dict[tuple[bool, bool], str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for dark in (False, True):
            for narrow in (False, True):
                target = Path(folder) / f"{dark}-{narrow}.svg"
                colours: dict[str, Any] = dict(DARK_COLOURS) if dark else {}
                write_plot(report, target, Look(4.6 if narrow else 9.0, titled=False, **colours))
                sources[dark, narrow] = data_uri(target.read_bytes(), "image/svg+xml")
    choices = [(f"{_DARK} and {_PHONE}", (True, True)), (_DARK, (True, False)), (_PHONE, (False, True))]
    offered = [Html(f'<source media="{media}" srcset="{sources[key]}">') for media, key in choices]
    alt = "training loss, control gain, sensitivity and controllability over updates"
    plain = Html(f'<img src="{sources[False, False]}" alt="{alt}">')
    hint = (
        "The training loss, and what was measured on rows that are never trained on. Bold line: sudden convergence "
        "detected; band: the midpoint of the rise, with 95 %."
    )
    return section("What happened", element("p", hint, class_="pale"), element("picture", *offered, plain))


def samples(run: Path, report: "Report | None") -> Html:
    """Grids of generated images before, at and after the event."""
    grids = {int(path.stem): path for path in sorted((run / SAMPLES).glob("*.png")) if path.stem.isdigit()}
    if not grids:
        return Html("")
    at = report.update_of("control_following") if report is not None else None
    figures = [
        element(
            "figure", element("figcaption", f"update {update:,}, {what}"),
            image(grids[update].read_bytes(), "image/png", f"samples of update {update}"),
        )
        for update, what in _chosen(sorted(grids), at)
    ]  # fmt: skip
    hint = "Held-out rows. From the top: the hint, the stored image, what is generated from hint and prompt."
    return section("Samples", element("p", hint, class_="pale"), element("div", *figures, class_="grids"))


def _chosen(updates: Sequence[int], at: int | None) -> list[tuple[int, str]]:
    """Those worth showing, and why."""
    if at is None:
        return [(update, "the start" if update == 0 else "the last") for update in sorted({updates[0], updates[-1]})]
    chosen: dict[int, str] = {}
    before = [update for update in updates if update < at]
    after = [update for update in updates if update >= at]
    if before:
        chosen[before[-1]] = "before"
    if after:
        chosen[after[0]] = "at the sudden convergence"
    if after[1:]:
        chosen[after[-1]] = "the last"
    return sorted(chosen.items())


def forecasts(report: "Report") -> Html:
    """What was foretold, against what came."""
    made = report.detector.forecasts
    if not made:
        return Html("")
    came = report.update_of("control_following")
    end = max([one.high for one in made] + [came or 0]) * 1.04
    rows = []
    for one in made:
        off, inside = "", ""
        if came is not None:
            off = f"{(one.expected - came) / came:+.0%}"
            inside = "inside" if one.low <= came <= one.high else "outside"
        rows.append(
            (f"{one.update:,}", f"{one.expected:,}", f"{one.low:,} to {one.high:,}", off, inside,
             _range(one.update, (one.low, one.expected, one.high), came, end))
        )  # fmt: skip
    columns = [Column("made at update", "number"), Column("expected", "number"), Column("interval", "number")]
    columns += [Column("off by", "number"), Column("it came"), Column("", "bar")]
    shown = rows if len(rows) <= 12 else [*rows[:: -(-len(rows) // 11)], rows[-1]]
    said = f"It was detected at update {came:,}." if came is not None else "It has not come yet."
    return section("Forecasts, and what came", element("p", said, class_="pale"), table(columns, shown))


def _range(made_at: int, expected: tuple[int, int, int], came: float | None, end: float) -> Html:
    """A small drawing: when it was said, the interval, and the event."""
    low, middle, high = (100 * one / end for one in expected)
    at = None if came is None else 100 * came / end
    line = "" if at is None else f'<rect x="{at:.2f}%" y="0" width="2" height="100%" fill="var(--bad)"/>'
    return Html(
        '<svg class="range" aria-hidden="true"><rect x="0" y="50%" width="100%" height="1" fill="var(--line)"/>'
        f'<rect x="{low:.2f}%" y="35%" width="{high - low:.2f}%" height="30%" rx="2" fill="var(--warn)" opacity=".45"/>'
        f'<circle cx="{middle:.2f}%" cy="50%" r="4" fill="var(--warn)"/>'
        f'<circle cx="{100 * made_at / end:.2f}%" cy="50%" r="3" fill="var(--pale)"/>{line}</svg>'
    )


def events(run: Path) -> Html:
    """What was written down while it trained."""
    rows = []
    for line in read_lines(run / "events.jsonl"):
        name = str(line.get("event", ""))
        fields = {key: value for key, value in line.items() if key != "event"}
        rows.append((f"{line.get('update', 0):,}", element("code", name), _said(name, fields)))
    if not rows:
        return section("Events", element("p", "None was written.", class_="pale"))
    return section("Events", table([Column("update", "number"), Column("event", "name"), Column("", "wide")], rows))


def _said(name: str, fields: Mapping[str, Any]) -> str:
    """The sentence of an event, without the update that stands before it; its values where it has none."""
    if name == "stalled" and isinstance(fields.get("causes"), list):
        fields = {**fields, "causes": " | ".join(fields["causes"])}
    try:
        said = sentence(name, fields)
    except (KeyError, TypeError, ValueError):
        said = None
    if said is not None:
        return said.plain.removeprefix(f"update {fields.get('update', 0):,}: ")
    return ", ".join(f"{key} {_short(value)}" for key, value in fields.items() if key not in ("update", "samples_seen"))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def earlier_attempt(run: Path) -> Html:
    """What was before a restart."""
    from training.report import analyse
    from training.restart import EARLIER, read_restart

    restarted = read_restart(str(run))
    if restarted is None or not (run / EARLIER / "probe.jsonl").is_file():
        return Html("")
    now, before = restarted.gradient_accumulation_steps, restarted.before
    said = (
        f"The run began again from update 0 with gradient_accumulation_steps {now} instead of {before}, as its "
        f"configuration asked. Of the first attempt, kept in {EARLIER}/: {analyse(run / EARLIER, {}).verdict()}"
    )
    return section("Before the restart", element("p", said))


def configuration(options: Mapping[str, Any]) -> Html:
    """What was set, and behind it all options."""
    from controlmill.config import TrainConfig

    fields = TrainConfig.model_fields
    known = {name: value for name, value in options.items() if name in fields and name not in _SECRETS}
    changed = {name: value for name, value in known.items() if value != _plain(fields[name].get_default())}
    columns = [Column("option"), Column("value", "wide")]
    return section(
        "Configuration",
        table(columns, _rows(changed)),
        element("details", element("summary", f"all {len(known)} options"), table(columns, _rows(known))),
    )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _rows(values: Mapping[str, Any]) -> Iterator[tuple[Html, str]]:
    from storage.filesystem import redact

    for name, value in values.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)
        yield element("code", name), text(redact(shown))
