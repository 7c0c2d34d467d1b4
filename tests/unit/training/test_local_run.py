"""The files of a run, wherever its folder is."""

from pathlib import Path

import fsspec
import pytest

from controlmill.errors import RunUnusableError
from training.local_run import local_files, local_log, local_run


def test_a_local_folder_is_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with local_run(str(tmp_path)) as folder:
        assert folder == tmp_path


def test_small_files_of_a_remote_run_are_copied_for_as_long_as_they_are_needed() -> None:
    files = fsspec.filesystem("memory")
    for name in ("config.json", "probe.jsonl", "samples/000000.png", "checkpoint-5/model.safetensors"):
        files.pipe(f"/local_run/run/{name}", name.encode())
    with local_run("memory://local_run/run") as folder:
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert found == {"config.json", "probe.jsonl", "samples/000000.png"}
    assert not folder.exists()
    with local_log("memory://local_run/run/probe.jsonl") as log:
        assert log.read_text() == "probe.jsonl"


def test_errors_name_the_address_and_not_the_copy() -> None:
    with (
        pytest.raises(RunUnusableError, match="memory://local_run/none is no run"),
        local_run("memory://local_run/none"),
    ):
        pass
    with (
        pytest.raises(RunUnusableError, match=r"^memory://local_run/none/a\.jsonl: broken$"),
        local_files("memory://local_run/none") as folder,
    ):
        raise RunUnusableError(f"{folder}/a.jsonl: broken")
