"""How many updates a run has where they are counted from its last checkpoint."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from controlmill.config import TrainConfig
from training.checkpoints import Checkpoints, Commit
from training.launch import notes_folder, with_updates


def config(run: Path, **given: Any) -> TrainConfig:
    values = {"train_data_dir": "there", "condition": "canny", "pretrained_model_name_or_path": "base"}
    return TrainConfig.model_validate({**values, "output_dir": str(run), **given})


def test_updates_are_added_to_those_of_the_last_complete_checkpoint(tmp_path: Path) -> None:
    adding = config(tmp_path, additional_train_steps=50)
    first = with_updates(adding)
    assert (first.max_train_steps, first.resume_from_checkpoint) == (50, "latest")
    for update in (20, 40):
        (tmp_path / f"checkpoint-{update}").mkdir()
        Checkpoints(str(tmp_path)).commit(Commit(update, update, 1, 0, "", {}))
    (tmp_path / "checkpoint-45").mkdir()
    again = with_updates(adding)
    assert (again.max_train_steps, again.resume_from_checkpoint) == (90, "latest")
    assert TrainConfig.model_validate(again.model_dump(mode="json")) == again
    assert with_updates(again) is again


def test_without_it_nothing_changes(tmp_path: Path) -> None:
    plain = config(tmp_path, max_train_steps=7)
    assert with_updates(plain) is plain


def test_notes_of_ray_are_gone_after_a_run_and_those_of_a_killed_one_at_the_next(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with notes_folder(str(run)) as folder:
        Path(folder, "of-this").touch()
    assert not list(run.iterdir())
    Path(folder).mkdir()
    Path(folder, "of-a-killed-one").touch()
    with notes_folder(str(run)) as folder:
        assert not list(Path(folder).iterdir())


def test_torch_is_left_to_the_ranks() -> None:
    # seconds and 450 MB each for the process that starts the run, its board and Ray's controller
    lines = "import sys, training.launch, flows.train_controlnet; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", lines], check=False).returncode == 0
