"""The raw evaluations of convergence_study.py, small enough to keep, and what the detector makes of them.

One line of JSON for each run: what it was, and a row for each evaluation of the probe. A question about a threshold is
answered from them in seconds; without the losses of single rows there is no interval for s50.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from convergence_findings import Findings, has_risen, middle_of
from convergence_words import head, row, update_of

from controlmill.config import validate
from controlmill.config.convergence import ConvergenceOptions
from training.convergence import Detector
from training.gain import Evaluation, Gain

COLUMNS = ("update", "gain", "p", "S", "overlap", "loss")
"""Overlap: own hint less another row's, where samples were drawn; loss: mean of training since the row before."""


def raw_lines(found: Iterable[Findings]) -> list[str]:
    """A line for each run."""
    return [json.dumps(_raw(one), separators=(",", ":")) for one in found]


def _raw(one: Findings) -> dict[str, Any]:
    detector, overlap, losses = one.report.detector, dict(one.overlap), dict(one.losses)
    rows = [
        [
            seen.update,
            *(None if value is None else float(f"{value:.4g}") for value in (
                gain.gain, gain.p_value, seen.sensitivity, overlap.get(seen.update), losses.get(seen.update)
            )),
        ]
        for seen, gain in zip(detector.evaluations, detector.gains, strict=True)
    ]  # fmt: skip
    spec = one.spec
    about = {"run": spec.name, "what": spec.what, "unrelated": spec.is_unrelated, "options": dict(spec.options)}
    return {**about, "columns": COLUMNS, "rows": rows}


def replayed(run: Mapping[str, Any], options: ConvergenceOptions) -> Detector:
    """A detector that has seen the rows of a run."""
    detector = Detector(options)
    for update, gain, p_value, sensitivity, *_ in run["rows"]:
        detector.take(Evaluation(update, (), (), sensitivity), Gain(gain, p_value, 0.0, 0.0, 0))
    return detector


def analysed_again(file: Path, overrides: Mapping[str, Any]) -> list[str]:
    """A table of what these thresholds give, distances as parts of the way to the midpoint of the overlap."""
    options = validate(ConvergenceOptions, dict(overrides))
    lines = head(["run", "", "midpoint", "`following`", "`settled`", "s50", "first forecast", "largest gain"])
    for text in file.read_text(encoding="utf-8").splitlines():
        run = json.loads(text)
        detector = replayed(run, options)
        overlap = [(line[0], line[4]) for line in run["rows"] if line[4] is not None]
        middle = middle_of(overlap) if overlap and has_risen(overlap) else None
        events, found = detector.events, detector.convergence()
        updates = [events[name].update if name in events else None for name in ("control_following", "control_settled")]
        dated = [*updates, None if found is None else found.rise.s50]
        first = detector.forecasts[0] if detector.forecasts else None
        cells = [run["run"], run["what"], update_of(middle), *(_off(update, middle) for update in dated)]
        cells += ["-" if first is None else f"{first.expected} at {first.update}", f"{detector.max_gain or 0:.2g}"]
        lines.append(row(cells))
    return lines


def _off(update: float | None, middle: float | None) -> str:
    return update_of(update) + (f" ({update / middle - 1:+.0%})" if update is not None and middle else "")
