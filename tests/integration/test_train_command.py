"""`controlmill train` on Ray Train: a rank that is killed costs an interval at most, and errors are one line."""

import json
import re
from pathlib import Path

import psutil
import pytest

from controlmill.testing.command import Command, run, wait_gone
from controlmill.testing.tiny_sd import write_tiny_sd
from controlmill.testing.training_set import write_training_set
from storage.lock import locked

NUM_UPDATES = 16


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("train")
    base = write_tiny_sd(folder / "base", unet_widths=(16, 16, 16, 16))
    dataset = write_training_set(folder, num_rows=24, size=64)
    data = ["train", dataset, "--condition", "canny", "--keep-empty-hints", "--resolution", "64"]
    run_options = ["--num-probe-rows", "0", "--report_to", "none", "--train_batch_size", "1"]
    return [*data, "--pretrained_model_name_or_path", str(base), *run_options]


def ranks(command: Command) -> list[psutil.Process]:
    found = []
    for process in command.family():
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def committed(output: Path) -> int:
    """The update of the last complete checkpoint."""
    return max(int(path.parent.name.removeprefix("checkpoint-")) for path in output.glob("checkpoint-*/commit.json"))


def test_a_rank_that_is_killed_costs_an_interval_at_most(words: list[str], tmp_path: Path) -> None:
    output = tmp_path / "run"
    options = ["--num-workers", "2", "--zero-stage", "1", "--checkpointing_steps", "4", "--no-preflight"]
    limits = ["--max_train_steps", str(NUM_UPDATES), "--output_dir", str(output)]
    command = Command([*words, *options, *limits], tmp_path / "log")
    assert command.wait_for((output / "checkpoint-4" / "commit.json").exists), command.output
    victims = ranks(command)
    assert len(victims) == 2, command.output
    safe = committed(output)
    victims[1].kill()
    try:
        assert command.process.wait(300) == 0, command.output
    finally:
        for process in command.family():
            process.kill()
    resumed = re.search(r"resumed\b.*?update=(\d+)", command.output)
    assert resumed is not None, command.output
    assert int(resumed[1]) in range(safe, NUM_UPDATES, 4), (safe, resumed[0])
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == list(range(1, NUM_UPDATES + 1))
    assert (output / "controlnet" / "config.json").is_file()


def test_ctrl_c_stops_in_order_and_says_how_to_go_on(words: list[str], tmp_path: Path) -> None:
    output = tmp_path / "run"
    options = [*words, "--checkpointing_steps", "2", "--no-preflight", "--output_dir", str(output)]
    command = Command([*options, "--max_train_steps", "100000"], tmp_path / "log")
    assert command.wait_for((output / "checkpoint-2" / "commit.json").exists), command.output
    family = command.family()
    command.interrupt()
    assert command.process.wait(timeout=120) == 130, command.output
    assert wait_gone(family, timeout_s=60) == []
    assert "Traceback" not in command.output
    said = command.output.splitlines()[-1]
    assert said.startswith("error: stopped; the last checkpoint is that of update "), said
    assert "add --resume-from-checkpoint latest to go on from it" in said
    last = int(said.removeprefix("error: stopped; the last checkpoint is that of update ").partition(";")[0])
    again = run(*options, "--max_train_steps", last + 2, "--resume-from-checkpoint", "latest", limit_s=600)
    assert again.exit_code == 0, again.errors
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == list(range(1, last + 3))


def test_what_is_wrong_is_told_in_one_line(words: list[str], tmp_path: Path) -> None:
    refused = run(*words, "--output_dir", tmp_path / "run", "--max_train_steps", 2, "--max_timestep", 5000, limit_s=200)
    assert refused.exit_code == 2, refused.errors
    assert refused.errors.splitlines()[-1].startswith("error: min_timestep, max_timestep: 0 to 5000 is not within")


def test_preflight_says_what_it_found(words: list[str], tmp_path: Path) -> None:
    looked = run("preflight", *words[1:], "--output_dir", tmp_path / "run", limit_s=200)
    assert looked.exit_code == 0, looked.errors
    for part in ("the first output is the base's, bit by bit", "no gradient reaches its weights", "GFLOP per image"):
        assert part in looked.output
    assert not (tmp_path / "run").exists()


def test_preflight_fails_where_training_would_be_in_vain(words: list[str], tmp_path: Path) -> None:
    dataset = write_training_set(tmp_path, num_rows=16, size=64, captions=[""] * 16)
    refused = run("preflight", dataset, *words[2:], limit_s=200)
    assert refused.exit_code == 8, refused.errors
    assert "wrong" in refused.output
    assert refused.errors.splitlines()[-1].startswith("error: preflight: prompts: 8 of 8 are empty")


def test_two_do_not_train_in_one_folder(words: list[str], tmp_path: Path) -> None:
    with locked(str(tmp_path / "run")):
        refused = run(*words, "--output_dir", tmp_path / "run", "--max_train_steps", 2, limit_s=200)
    assert refused.exit_code == 4, refused.errors
    assert refused.errors.splitlines()[-1].startswith(f"error: {tmp_path / 'run'} is in use by another controlmill")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".controlmill.lock"]
