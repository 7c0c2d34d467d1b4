"""What a run that begins again moves, and what belongs to the process that is at work in the folder."""

from pathlib import Path

import pytest
import torch

from controlmill.config import TrainConfig
from controlmill.errors import FolderLockedError
from storage.lock import locked
from training.launch import notes_folder
from training.place import Place
from training.restart import begin_again, latest_attempt, read_restart


def test_lock_and_notes_of_the_live_run_stay(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = TrainConfig(
        train_data_dir="there",
        condition=("canny",),
        pretrained_model_name_or_path="base",
        output_dir=str(run),
        on_following=("restart: 4",),
    )
    place = Place(0, 1, torch.device("cpu"), "this launch")
    with locked(str(run)), notes_folder(str(run)) as notes:
        Path(notes, "worker").touch()
        (run / "metrics.jsonl").write_text("{}\n")
        second = latest_attempt(begin_again(config, place, times=4, at_update=7), place)
        assert second.gradient_accumulation_steps == 4
        assert [path.name for path in (run / "attempt-1").iterdir()] == ["metrics.jsonl"]
        assert Path(notes, "worker").is_file()
        with pytest.raises(FolderLockedError, match="in use by another"), locked(str(run)):
            pass
    found = read_restart(str(run))
    assert found is not None
    assert found.moved
