"""Isolated environments are made whole or not at all: small ones here, the real one in test_lavis.py."""

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from controlmill.errors import EnvironmentUnusableError
from tasks import environments

NAME = "small"


@pytest.fixture(autouse=True)
def pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment of nothing but its Python; the file of its pins, to be changed."""
    small = environments.Environment(NAME, "nothing", sys.version_info[:2], "it is small", ("json",))
    monkeypatch.setattr(environments, "ENVIRONMENTS", {NAME: small})
    monkeypatch.setattr(environments, "_ROOT", tmp_path)
    monkeypatch.setenv("CONTROLMILL_ENVIRONMENTS", str(tmp_path / "made"))
    path = tmp_path / "environments" / NAME / "requirements.txt"
    path.parent.mkdir(parents=True)
    path.write_text("# nothing\n")
    return path


def make() -> tuple[environments.State, list[str]]:
    said: list[str] = []
    return environments.create(NAME, said.append), said


def test_an_environment_is_made_once_and_again_where_it_is_not_whole(pins: Path) -> None:
    assert environments.state(NAME).problem == "it is not made; run `controlmill env create small`"
    made, said = make()
    assert (made.problem, len(said)) == (None, 2)
    prefix = subprocess.run(
        [made.python, "-I", "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True
    )
    assert Path(prefix.stdout.strip()) == made.folder
    assert make() == (made, [])

    pins.write_text("# other pins\n")
    assert "it was made for other pins" in str(environments.state(NAME).problem)
    # killed in the middle: the stamp is the last that is written
    (made.folder / "controlmill.json").unlink()
    (made.folder / "left").touch()
    with pytest.raises(EnvironmentUnusableError, match="half made"):
        environments.require(NAME)
    again, _ = make()
    assert again.problem is None
    assert not (made.folder / "left").exists()


def test_two_at_once_make_one(tmp_path: Path) -> None:
    said: list[list[str]] = []
    threads = [threading.Thread(target=lambda: said.append(make()[1])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = sorted(said, key=len, reverse=True)
    assert any(line.startswith("making ") for line in first)
    assert not any(line.startswith("making ") for line in second)
    assert json.loads((tmp_path / "made" / NAME / "controlmill.json").read_text())["num_bytes"] > 0


def test_what_pip_says_is_the_reason(pins: Path) -> None:
    pins.write_text("--no-index\n--find-links /nowhere\nno-such-distribution==1.0\n")
    with pytest.raises(EnvironmentUnusableError, match=r"pip failed: .*no-such-distribution==1\.0.*the whole log is"):
        make()
    assert environments.state(NAME).problem == "it is half made; run `controlmill env create small`"


def test_another_python_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(environments.ENVIRONMENTS[NAME], python=(3, 9))
    monkeypatch.setattr(environments, "ENVIRONMENTS", {NAME: small})
    with pytest.raises(EnvironmentUnusableError, match=r"small needs Python 3\.9, this is .*: it is small"):
        make()
