"""`probe.jsonl`: one line per evaluation of the probe, read back with an eye on every line."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from controlmill.errors import RunUnusableError
from training.gain import Evaluation, Losses
from training.json_lines import LARGEST, json_lines

PROBE_LOG = "probe.jsonl"


def log_of(path: Path) -> Path:
    """The probe log that is meant: the file itself, or the one in the folder of a run."""
    return path / PROBE_LOG if path.is_dir() else path


def read_probe_log(path: Path) -> list[Evaluation]:
    """The evaluations of a log in the order of their updates.

    A line whose update is not above the one before it begins again from an earlier checkpoint: what it takes the place
    of is left out; so is a last line that was cut off.

    Raises:
        RunUnusableError: the file cannot be read, holds no evaluation, or a line is broken; it names file and line.
    """
    evaluations: list[Evaluation] = []
    for place, values in json_lines(path, "probe log"):
        evaluation = _evaluation(values, place)
        while evaluations and evaluations[-1].update >= evaluation.update:
            evaluations.pop()
        if evaluations:
            _compare(evaluation.right, evaluations[0].right, place)
        evaluations.append(evaluation)
    if not evaluations:
        raise RunUnusableError(f"{path}: there is no evaluation of a probe in it")
    return evaluations


def _evaluation(values: Any, place: str) -> Evaluation:
    """One line; `place` (file and line number) begins the message of every `RunUnusableError`."""
    if not isinstance(values, dict):
        raise RunUnusableError(f"{place}: an evaluation is a JSON object, not {_shown(values)}")
    update = _field(values, "update", place, _whole)
    right = _field(values, "loss_right", place, _losses)
    wrong = _field(values, "loss_wrong", place, _losses)
    if update is None or right is None or wrong is None:
        missing = [name for name in ("update", "loss_right", "loss_wrong") if values.get(name) is None]
        raise RunUnusableError(f"{place}: {missing[0]} is missing")
    _compare(wrong, right, place)
    return Evaluation(
        update,
        right,
        wrong,
        _sensitivity(_field(values, "residual_sensitivity", place, _number)),
        _field(values, "samples_seen", place, _whole),
        _field(values, "epoch", place, _number),
    )


def _field(values: dict[str, Any], name: str, place: str, read: Callable[[Any], Any]) -> Any:
    value = values.get(name)
    if value is None:
        return None
    try:
        return read(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise RunUnusableError(f"{place}: {name}: {error}") from error


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
        raise ValueError(f"expected a whole number from 0 (got {_shown(value)})")
    if value > LARGEST:
        raise ValueError(f"expected a whole number up to {LARGEST:,} (got {_shown(value)})")
    return int(value)


def _number(value: Any) -> float:
    """A JSON number; null stands for one that was not finite."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number (got {_shown(value)})")
    return float(value)


def _sensitivity(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) and value >= 0 else None


def _losses(value: Any) -> Losses:
    if not isinstance(value, list) or not all(isinstance(row, list) and row for row in value):
        raise TypeError(f"expected a list of rows, each a list with a loss per timestep (got {_shown(value)})")
    if len(value) < 2:
        raise ValueError(f"a wrong hint is another row's, so at least 2 rows are needed (got {len(value)})")
    losses = tuple(tuple(_number(loss) for loss in row) for row in value)
    if any(loss < 0 for row in losses for loss in row):
        raise ValueError("a squared error is not below 0")
    if len({len(row) for row in losses}) > 1:
        raise ValueError("its rows have different numbers of timesteps")
    return losses


def _compare(losses: Losses, expected: Losses, place: str) -> None:
    (rows, timesteps), (expected_rows, expected_timesteps) = ((len(side), len(side[0])) for side in (losses, expected))
    if (rows, timesteps) != (expected_rows, expected_timesteps):
        sizes = f"{rows} x {timesteps} instead of {expected_rows} x {expected_timesteps}"
        raise RunUnusableError(f"{place}: losses of different sizes (rows x timesteps): {sizes}")


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except RecursionError:
        return "lists in lists in lists"
    return text if len(text) <= 40 else text[:37] + "..."
