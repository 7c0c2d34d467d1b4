"""`controlmill convergence`: one JSON object per log, words for a person, a picture, errors."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from controlmill.cli.main import main
from controlmill.testing.probe_curves import evaluations

KEYS = [
    "file", "onset", "following", "settled", "convergence_update", "ci95", "s10", "s90", "R", "rho", "label",
    "max_gain", "forecasts",
]  # fmt: skip


def rise(update: int) -> float:
    return 0.6 / (1 + math.exp((1000 - update) / 50))


def write(file: Path, gain: Callable[[int], float], last: int = 2000) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as lines:
        for one in evaluations(range(0, last + 1, 40), gain):
            sensitivity = min(1.2, math.exp((one.update - 950) / 110)) if gain is rise else 0.01
            line = {
                "update": one.update,
                "timesteps": [300, 450, 650],
                "loss_right": one.right,
                "loss_wrong": one.wrong,
            }
            lines.write(json.dumps({**line, "residual_sensitivity": sensitivity}) + "\n")
    return file


def test_one_json_object_per_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write(tmp_path / "run" / "probe.jsonl", rise)
    silent = write(tmp_path / "negative.jsonl", lambda _: 0.0)
    assert main(["convergence", str(log.parent), str(silent), "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert list(first) == list(second) == KEYS
    assert first["file"] == str(log)
    assert first["onset"] <= first["following"] < first["settled"]
    assert first["convergence_update"] == pytest.approx(1000, abs=10)
    assert first["ci95"][0] <= first["convergence_update"] <= first["ci95"][1]
    assert first["s10"] < first["convergence_update"] < first["s90"]
    assert first["label"] == "sudden"
    assert first["max_gain"] == pytest.approx(0.6, abs=0.02)
    assert list(first["forecasts"][0]) == ["update", "expected", "low", "high"]
    assert second == {
        "file": str(silent), **dict.fromkeys(KEYS[1:-2]), "max_gain": second["max_gain"], "forecasts": [],
    }  # fmt: skip


def test_words_for_a_person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write(tmp_path / "probe.jsonl", rise)
    silent = write(tmp_path / "negative.jsonl", lambda _: 0.0)
    already = write(tmp_path / "already.jsonl", lambda _: 0.4)
    unsettled = write(tmp_path / "unsettled.jsonl", rise, last=1000)
    assert main(["convergence", str(log), str(silent), str(already), str(unsettled)]) == 0
    text = capsys.readouterr().out
    assert "51 evaluations, updates 0 to 2,000" in text
    assert "Convergence at update 1,0" in text
    assert ": sudden (R 0." in text
    assert "following, the sudden convergence" in text
    assert "forecast of update" in text
    assert "No convergence: the largest gain is 0.0" in text
    assert "The control was followed from the first evaluation on" in text
    assert "provisional, the gain still rises." in text


def test_thresholds_come_from_the_run_and_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write(tmp_path / "probe.jsonl", lambda update: 0.03 if update > 400 else 0.0)
    assert main(["convergence", str(log), "--json"]) == 0
    assert main(["convergence", str(log), "--json", "following_gain=0.02"]) == 0
    (tmp_path / "config.json").write_text(json.dumps({"seed": 3, "following_gain": 0.01, "following_evaluations": 3}))
    assert main(["convergence", str(tmp_path), "--json"]) == 0
    found = [json.loads(line)["following"] for line in capsys.readouterr().out.splitlines()]
    assert found == [None, 560, 600]


def test_a_plot_of_everything_that_lies_beside(tmp_path: Path) -> None:
    log = write(tmp_path / "run" / "probe.jsonl", rise)
    (log.parent / "metrics.jsonl").write_text(
        "".join(json.dumps({"update": update, "loss": 0.1}) + "\n" for update in range(1, 2001))
    )
    (log.parent / "controllability.jsonl").write_text(
        "".join(
            json.dumps(
                {"update": update, "measure": "canny_f1", "mean_own": rise(update), "mean_other": 0.05, "real": 0.9}
            )
            + "\n"
            for update in range(0, 2001, 200)
        )
    )
    sizes = []
    for folder in (log.parent, write(tmp_path / "alone.jsonl", lambda _: 0.0)):
        target = tmp_path / "plots" / f"{folder.name}.png"
        assert main(["convergence", str(folder), "--plot", str(target)]) == 0
        assert target.read_bytes().startswith(b"\x89PNG")
        sizes.append(target.stat().st_size)
    assert sizes[0] > sizes[1]


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write(tmp_path / "probe.jsonl", rise)
    broken = tmp_path / "broken.jsonl"
    broken.write_text(log.read_text().splitlines()[0] + "\n{}\n")
    assert main(["convergence", str(broken)]) == 8
    assert capsys.readouterr().err == f"error: {broken}:2: update is missing\n"
    assert main(["convergence", str(tmp_path / "nothing")]) == 8
    assert "cannot read the probe log" in capsys.readouterr().err
    assert main(["convergence", str(log), "following_gian=0.1"]) == 2
    assert "did you mean following_gain?" in capsys.readouterr().err
    assert main(["convergence", str(log), str(log), "--plot", "a.png"]) == 2
    assert "draws one run, not 2" in capsys.readouterr().err
    assert main(["convergence", str(log), "--plot", "a.txt"]) == 2
    assert "give a file that ends in .png" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_text('{"update": 1, "loss": 0.1}\n{"upd\n')
    assert main(["convergence", str(log), "--plot", str(tmp_path / "a.png")]) == 8
    assert f"{tmp_path / 'metrics.jsonl'}:2: not JSON" in capsys.readouterr().err


def test_a_run_that_was_killed_while_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write(tmp_path / "probe.jsonl", rise)
    with log.open("a") as file:
        file.write('{"update": 2040, "loss_r')
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"update": 1, "loss": 0.1}\n{"update": 2, "loss": ' + 400 * "9" + '}\n{"upd')
    assert main(["convergence", str(tmp_path), "--json", "--plot", str(tmp_path / "a.png")]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["settled"] is not None
    assert f"line_cut_off place={log}:52 " in said.err
    assert f"line_cut_off place={metrics}:3 " in said.err


@pytest.mark.parametrize("loss", [5e-324, 1e308])
def test_losses_at_the_ends_of_what_floats_hold_say_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loss: float
) -> None:
    log = write(tmp_path / "probe.jsonl", rise)
    extreme = [[loss, loss, loss]] * 32
    line = {"update": 2040, "loss_right": extreme, "loss_wrong": [[0.1, 0.1, 0.1]] * 32, "residual_sensitivity": 1e308}
    with log.open("a") as file:
        file.write(json.dumps(line) + "\n")
    assert main(["convergence", str(log)]) == 0
    assert "1 more without finite losses" in capsys.readouterr().out


def test_a_run_on_another_file_system(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    local = write(tmp_path / "probe.jsonl", rise)
    files = fsspec.filesystem("memory")
    files.pipe("/convergence/run/probe.jsonl", local.read_bytes())
    files.pipe("/convergence/run/config.json", b'{"following_gain": 0.3}')
    run = "memory://convergence/run"
    assert main(["convergence", run, f"{run}/probe.jsonl", str(local), "--json"]) == 0
    folder, file, here = map(json.loads, capsys.readouterr().out.splitlines())
    assert folder["file"] == run
    assert folder["following"] == file["following"] > here["following"]
    assert main(["convergence", run, "--plot", str(tmp_path / "a.png"), "following_gain=0.2"]) == 0
    capsys.readouterr()
    files.pipe("/convergence/broken/probe.jsonl", b"{}\n")
    assert main(["convergence", "memory://convergence/broken"]) == 8
    assert capsys.readouterr().err == "error: memory://convergence/broken/probe.jsonl:1: update is missing\n"
    assert main(["convergence", "memory://convergence/nothing"]) == 8
    assert "memory://convergence/nothing/probe.jsonl: cannot read the probe log" in capsys.readouterr().err
