"""`restart: N`: a run that ends where the hint is followed, and begins again with N times the batches per update."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from controlmill.testing.ranks import FOLLOWED_AT_ONCE, run_options, train_on_ranks
from controlmill.testing.tiny_sd import write_tiny_sd
from controlmill.testing.training_set import write_training_set

NUM_UPDATES = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("restart")
    write_tiny_sd(folder / "base", unet_widths=(16, 16, 16, 16))
    write_training_set(folder, num_rows=60, size=64)
    return folder


def config(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    own = {
        "max_train_steps": NUM_UPDATES,
        "hint_init": "kaiming",
        "num_probe_rows": 5,
        "learning_rate": 1e-2,
        "seed": 1,
    }
    return run_options(folder, name, **{**own, **FOLLOWED_AT_ONCE, "on_following": ["restart: 2"], **options})


def lines(folder: Path, name: str, log: str) -> list[dict[str, Any]]:
    path = folder / name / log
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> list[dict[str, Any]]:
    twice = {"gradient_accumulation_steps": 2, "on_following": []}
    done = train_on_ranks(
        2, [config(folder, "restarted", zero_stage=2), config(folder, "plain", zero_stage=2, **twice)], folder / "ranks"
    )
    assert all("update" in outcome for outcome in done), done
    return done


def of_the_first(folder: Path) -> int:
    """Updates of the first attempt."""
    return len(lines(folder, "restarted/attempt-1", "metrics.jsonl"))


def cut_off(folder: Path, name: str, *, recorded: bool) -> None:
    """The run as a kill leaves it at the end of its first attempt, or amid the moving of its files."""
    run = folder / name
    shutil.copytree(folder / "restarted" / "attempt-1", run)
    if recorded:
        record = json.loads((folder / "restarted" / "restart.json").read_text())
        (run / "restart.json").write_text(json.dumps({**record, "moved": False}))
        (run / "attempt-1").mkdir()
        (run / "metrics.jsonl").rename(run / "attempt-1" / "metrics.jsonl")


def test_the_second_attempt_is_a_run_with_that_batch(folder: Path, outcomes: list[dict[str, Any]]) -> None:
    assert [outcome["update"] for outcome in outcomes] == [NUM_UPDATES] * 2
    assert outcomes[0]["reason"] == ""
    assert outcomes[0]["samples_seen"] == outcomes[1]["samples_seen"] == NUM_UPDATES * 2 * 2 * 2
    assert lines(folder, "restarted", "metrics.jsonl") == lines(folder, "plain", "metrics.jsonl")
    assert lines(folder, "restarted", "probe.jsonl") == lines(folder, "plain", "probe.jsonl")
    # the hint is followed again, and nothing is done about it
    assert lines(folder, "restarted", "events.jsonl") == lines(folder, "plain", "events.jsonl")


@pytest.mark.usefixtures("outcomes")
def test_what_the_first_attempt_left_is_kept(folder: Path) -> None:
    earlier = folder / "restarted" / "attempt-1"
    at = of_the_first(folder)
    assert 1 <= at < NUM_UPDATES + 1
    (action,) = [event for event in lines(folder, "restarted/attempt-1", "events.jsonl") if event["event"] == "action"]
    assert (action["action"], action["because"], action["update"]) == ("restart: 2", "control_following", at)
    commit = json.loads((earlier / f"checkpoint-{at}" / "commit.json").read_text())
    assert commit["keep"] == f"converged-{at}"
    assert (earlier / "controlnet" / "config.json").is_file()
    configs = [json.loads((where / "config.json").read_text()) for where in (earlier, folder / "restarted")]
    assert [one["gradient_accumulation_steps"] for one in configs] == [1, 2]
    assert configs[1]["restarted"]["before"] == 1
    assert configs[1]["restarted"]["at_update"] == at


@pytest.mark.usefixtures("outcomes")
def test_what_was_killed_goes_on_where_it_was_and_what_is_finished_is_not_done_again(folder: Path) -> None:
    cut_off(folder, "before", recorded=False)
    cut_off(folder, "amid", recorded=True)
    names = ("amid", "before", "restarted")
    refused, *done = train_on_ranks(
        2,
        [
            config(folder, "amid", zero_stage=2),
            *(config(folder, name, zero_stage=2, resume_from_checkpoint="latest") for name in names),
        ],
        folder / "ranks-again",
    )
    assert "there is a run in" in refused["message"]
    assert [outcome.get("update") for outcome in done] == [NUM_UPDATES] * 3, done
    for name in names:
        assert len(lines(folder, f"{name}/attempt-1", "metrics.jsonl")) == of_the_first(folder)
        assert lines(folder, name, "metrics.jsonl") == lines(folder, "plain", "metrics.jsonl")
        assert json.loads((folder / name / "config.json").read_text())["gradient_accumulation_steps"] == 2
