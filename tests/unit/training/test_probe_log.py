"""Reading `probe.jsonl`: every broken line is named."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from controlmill.errors import RunUnusableError
from training.probe_log import log_of, read_probe_log

LINE: dict[str, Any] = {
    "update": 100, "samples_seen": 400, "epoch": 0.5, "timesteps": [300, 450],
    "loss_right": [[0.1, 0.2], [0.3, 0.4]], "loss_wrong": [[0.2, 0.2], [0.3, 0.5]],
    "loss_none": [[0.2, 0.2], [0.3, 0.5]], "residual_sensitivity": 0.25, "residual_norms": {"middle": 1.5},
}  # fmt: skip


def write(folder: Path, *lines: str) -> Path:
    file = folder / "probe.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def line(**changes: Any) -> str:
    return json.dumps({**LINE, **changes})


def without(*names: str) -> str:
    return json.dumps({name: value for name, value in LINE.items() if name not in names})


def test_reads_what_the_detector_needs(tmp_path: Path) -> None:
    file = write(tmp_path, line(), "", line(update=200, epoch=1))
    first, second = read_probe_log(file)
    assert first.right == ((0.1, 0.2), (0.3, 0.4))
    assert first.wrong == ((0.2, 0.2), (0.3, 0.5))
    assert (first.update, first.samples_seen, first.epoch, first.sensitivity) == (100, 400, 0.5, 0.25)
    assert (second.update, second.epoch) == (200, 1.0)
    assert log_of(tmp_path) == file
    assert log_of(file) == file


def test_only_three_fields_are_needed(tmp_path: Path) -> None:
    file = write(tmp_path, without("samples_seen", "epoch", "timesteps", "loss_none", "residual_sensitivity"))
    (only,) = read_probe_log(file)
    assert (only.samples_seen, only.epoch, only.sensitivity) == (None, None, None)


def test_nan_and_null_are_losses_that_are_not_finite(tmp_path: Path) -> None:
    text = line(loss_right=[[math.nan, 0.2], [None, math.inf]], residual_sensitivity=math.nan)
    (only,) = read_probe_log(write(tmp_path, text))
    assert [[math.isfinite(loss) for loss in row] for row in only.right] == [[False, True], [False, False]]
    assert only.sensitivity is None


def test_lines_of_a_run_that_went_on_from_a_checkpoint_take_the_place_of_the_others(tmp_path: Path) -> None:
    updates = [100, 200, 300, 400, 200, 300]
    lines = [line(update=update, samples_seen=number) for number, update in enumerate(updates)]
    seen = read_probe_log(write(tmp_path, *lines))
    assert [(one.update, one.samples_seen) for one in seen] == [(100, 0), (200, 4), (300, 5)]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ('{"update": ' + 5000 * "9" + "}", "not JSON: a number of thousands of digits"),
        (10**5 * "[", "not JSON: it is nested too deeply"),
        (line(update=10**400),
         "update: expected a whole number up to 9,007,199,254,740,992 (got 1000000000000000000000000000000000000...)"),
        (line(samples_seen=2**60),
         "samples_seen: expected a whole number up to 9,007,199,254,740,992 (got 1152921504606846976)"),
        (line(loss_right=[[10**400, 0.2], [0.3, 0.4]]), "loss_right: int too large to convert to float"),
        ('{"update": 1', "not JSON: Expecting ',' delimiter at column 13"),
        ("[1, 2]", "an evaluation is a JSON object, not [1, 2]"),
        (without("update"), "update is missing"),
        (without("loss_wrong"), "loss_wrong is missing"),
        (line(update=-1), "update: expected a whole number from 0 (got -1)"),
        (line(update=1.5), "update: expected a whole number from 0 (got 1.5)"),
        (line(update="7"), "update: expected a whole number from 0 (got '7')"),
        (line(update=math.inf), "update: cannot convert float infinity to integer"),
        (line(loss_right=0.3), "loss_right: expected a list of rows, each a list with a loss per timestep (got 0.3)"),
        (line(loss_right=[[0.1, "x"], [0.3, 0.4]]), "loss_right: expected a number (got 'x')"),
        (line(loss_right=[[0.1, 0.2], [0.3]]), "loss_right: its rows have different numbers of timesteps"),
        (line(loss_right=[[0.1, -0.2], [0.3, 0.4]]), "loss_right: a squared error is not below 0"),
        (line(loss_right=[[0.1, 0.2]]),
         "loss_right: a wrong hint is another row's, so at least 2 rows are needed (got 1)"),
        (line(loss_wrong=[[0.1], [0.2]]), "losses of different sizes (rows x timesteps): 2 x 1 instead of 2 x 2"),
        (line(update=200, loss_right=[[1, 1]] * 3, loss_wrong=[[1, 1]] * 3),
         "losses of different sizes (rows x timesteps): 3 x 2 instead of 2 x 2"),
        (line(residual_sensitivity="high"), "residual_sensitivity: expected a number (got 'high')"),
    ],
)  # fmt: skip
def test_a_broken_line_is_named(tmp_path: Path, broken: str, message: str) -> None:
    file = write(tmp_path, line(), broken, line(update=300))
    with pytest.raises(RunUnusableError) as caught:
        read_probe_log(file)
    assert str(caught.value) == f"{file}:2: {message}"


def test_a_last_line_that_was_cut_off_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "probe.jsonl"
    for length in (1, 20, len(line(update=200)) - 1):
        file.write_text(line() + "\n" + line(update=200)[:length])
        assert [one.update for one in read_probe_log(file)] == [100]
        assert f"line_cut_off place={file}:2" in capsys.readouterr().err
    file.write_text(line() + "\n" + line(update=200))
    assert [one.update for one in read_probe_log(file)] == [100, 200]
    file.write_text(line() + "\n" + line(update=200)[:20] + "\n")
    with pytest.raises(RunUnusableError, match=":2: not JSON"):
        read_probe_log(file)


def test_a_file_without_evaluations_or_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunUnusableError, match="there is no evaluation of a probe in it"):
        read_probe_log(write(tmp_path, ""))
    with pytest.raises(RunUnusableError, match=r"none\.jsonl: cannot read the probe log: No such file"):
        read_probe_log(tmp_path / "none.jsonl")
    (tmp_path / "picture").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(RunUnusableError, match="it is not text"):
        read_probe_log(tmp_path / "picture")
