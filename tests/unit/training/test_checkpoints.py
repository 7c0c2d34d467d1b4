from collections.abc import Callable
from pathlib import Path

import pytest

from controlmill.errors import ConfigError, RunUnusableError
from training.checkpoints import COMMIT, Checkpoints, Commit

Write = Callable[..., Commit]


@pytest.fixture(params=["disk", "memory"])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    """Of a run on the local disk, and of one under an URI."""
    return Checkpoints(str(tmp_path / "run") if request.param == "disk" else f"memory://{tmp_path.name}/run")


@pytest.fixture
def write(checkpoints: Checkpoints) -> Write:
    def write_one(update: int, keep: str = "", launch: str = "l") -> Commit:
        with checkpoints.writing(update) as folder:
            (Path(folder) / "deepspeed").mkdir(exist_ok=True)
            (Path(folder) / "deepspeed" / "weights.pt").write_bytes(b"w" * update)
            sizes = checkpoints.put(folder, update)
        commit = Commit(update, update * 4, 2, 1, launch, sizes, {"a": [1]}, keep)
        checkpoints.commit(commit)
        return commit

    return write_one


def test_a_checkpoint_is_there_once_its_record_is(checkpoints: Checkpoints, write: Write) -> None:
    commit = write(3)
    with checkpoints.writing(5) as folder:
        (Path(folder) / "half.pt").write_bytes(b"x")
        checkpoints.put(folder, 5)
    assert checkpoints.committed() == [commit]
    folder, found = checkpoints.find("latest")
    assert found == commit
    with checkpoints.local_copy(folder) as local:
        assert (Path(local) / "deepspeed" / "weights.pt").read_bytes() == b"www"


def test_what_a_killed_run_left_is_deleted(checkpoints: Checkpoints, write: Write) -> None:
    write(3)
    checkpoints.clear(3)
    checkpoints.clear(4)
    assert checkpoints.committed() == []


def test_only_the_last_ones_are_kept_and_those_of_events(checkpoints: Checkpoints, write: Write) -> None:
    for update, keep in ((1, ""), (2, "converged-2"), (3, ""), (4, "")):
        write(update, keep)
    assert checkpoints.prune(None) == []
    assert checkpoints.prune(2) == [1]
    assert checkpoints.prune(1) == [3]
    assert [commit.update for commit in checkpoints.committed()] == [2, 4]


def test_going_on_from_an_earlier_one_sets_the_later_ones_aside(checkpoints: Checkpoints, write: Write) -> None:
    for update in (500, 1000, 1500, 2000):
        write(update, "converged-1500" if update == 1500 else "", launch="old")
    checkpoints._files.write(f"{checkpoints._root}/metrics.jsonl", b"{}\n")
    updates, folder = checkpoints.set_aside(500)
    assert updates == [1000, 1500, 2000]
    assert folder == f"{checkpoints.address}/set-aside-1"
    assert [commit.update for commit in checkpoints.committed()] == [500]
    # nothing is lost: each is a checkpoint in its new place
    assert checkpoints.find(f"{folder}/checkpoint-1500")[1].keep == "converged-1500"
    assert checkpoints._files.read(f"{checkpoints._root}/set-aside-1/metrics.jsonl") == b"{}\n"

    write(1000, launch="new")
    assert checkpoints.prune(2) == []
    assert checkpoints.find("latest")[1].launch == "new"
    assert checkpoints.set_aside(1000) == ([], "")
    assert checkpoints.set_aside(500)[1].endswith("set-aside-2")


def test_a_file_that_was_cut_off_is_told(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path))
    with checkpoints.writing(2) as folder:
        (Path(folder) / "weights.pt").write_bytes(b"ww")
        sizes = checkpoints.put(folder, 2)
    checkpoints.commit(Commit(2, 8, 1, 0, "l", sizes))
    (tmp_path / "checkpoint-2" / "weights.pt").write_bytes(b"w")
    with pytest.raises(RunUnusableError, match="weights.pt has 1 bytes instead of 2"):
        checkpoints.find("checkpoint-2")
    (tmp_path / "checkpoint-2" / "weights.pt").unlink()
    with pytest.raises(RunUnusableError, match="weights.pt is missing"):
        checkpoints.find(str(tmp_path / "checkpoint-2"))


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path))
    with pytest.raises(RunUnusableError, match="no complete checkpoint in"):
        checkpoints.find("latest")
    with pytest.raises(RunUnusableError, match="no commit.json in it"):
        checkpoints.find("checkpoint-7")
    (tmp_path / "checkpoint-7").mkdir()
    (tmp_path / "checkpoint-7" / COMMIT).write_text('{"format": 1}')
    with pytest.raises(RunUnusableError, match="not the record of a checkpoint"):
        checkpoints.committed()
    (tmp_path / "checkpoint-7" / COMMIT).write_text('{"format": 2}')
    with pytest.raises(RunUnusableError, match="newer controlmill"):
        checkpoints.committed()


def test_files_of_other_machines_must_be_there_before_the_record_is(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path))
    with pytest.raises(ConfigError, match="all machines share"):
        checkpoints.commit(Commit(2, 8, 2, 1, "l", {"of-rank-1.pt": 10}))
    assert checkpoints.committed() == []
