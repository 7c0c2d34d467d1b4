"""Checkpoints come from elsewhere too: going on from one must not run what its pickles say."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest

from controlmill.testing.ranks import run_options, train_on_ranks
from controlmill.testing.tiny_sd import write_tiny_sd
from controlmill.testing.training_set import write_training_set

pytestmark = pytest.mark.timeout(600)


class Evil:
    """Whoever unpickles it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.mkdir, (self.folder,)


def test_no_pickle_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    write_tiny_sd(tmp_path / "base", unet_widths=(16, 16, 16, 16))
    write_training_set(tmp_path, num_rows=16)
    written = [run_options(tmp_path, f"zero-{stage}", zero_stage=stage, max_train_steps=1) for stage in (0, 1)]
    assert [outcome["update"] for outcome in train_on_ranks(1, written, tmp_path / "write")] == [1, 1]

    again = [
        {**options, "max_train_steps": 2, "resume_from_checkpoint": "latest", "output_dir": poisoned(options, part)}
        for options in written
        for part in ("model", "optim")
        if options["zero_stage"] or part == "model"
    ]
    outcomes = train_on_ranks(1, again, tmp_path / "read")
    # with ZeRO, two ranks read the file of one in another form first
    outcomes += train_on_ranks(2, again[1:], tmp_path / "read-by-two")
    assert not list(tmp_path.glob("was-run*"))
    for outcome in outcomes:
        assert outcome.get("error") == "RunUnusableError", outcome
        assert "holds more than tensors" in outcome["message"]


def poisoned(options: dict[str, object], part: str) -> str:
    """A copy of the run whose file of `part` makes a folder where its pickle is run, before it gives what it gave."""
    run = Path(str(options["output_dir"]))
    copy = run.with_name(f"{run.name}-{part}")
    shutil.copytree(run, copy)
    (path,) = copy.glob(f"checkpoint-1/deepspeed/*{part}_states.pt")
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in parts if name.endswith("/data.pkl"))
    # protocol 2 of Evil without its STOP, what it leaves taken from the stack again, then the rest
    evil = pickle.dumps(Evil(copy.with_name(f"was-run-{copy.name}")), protocol=2).removesuffix(b".")
    parts[name] = evil + b"0" + parts[name].removeprefix(b"\x80\x02")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for inner, data in parts.items():
            archive.writestr(inner, data)
    commit = copy / "checkpoint-1" / "commit.json"
    record = json.loads(commit.read_text())
    record["files"][f"deepspeed/{path.name}"] = path.stat().st_size
    commit.write_text(json.dumps(record))
    return str(copy)
