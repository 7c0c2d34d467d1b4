"""What is said of isolated environments without making one."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from controlmill.errors import EnvironmentUnusableError
from tasks import environments

ROOT = Path(__file__).resolve().parents[3]


def test_every_environment_is_pinned_by_versions_only() -> None:
    assert {path.name for path in (ROOT / "environments").iterdir()} == set(environments.ENVIRONMENTS)
    for name in environments.ENVIRONMENTS:
        text = (ROOT / "environments" / name / "requirements.txt").read_text()
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z]+\])?==[A-Za-z0-9.!]+", line) for line in lines)


def test_ray_is_that_of_this_environment() -> None:
    assert f"\nray[default]=={version('ray')}\n" in environments.requirements("blip-lavis")


def test_lavis_has_the_versions_that_work_together() -> None:
    pins = environments.requirements("blip-lavis").splitlines()
    assert {"salesforce-lavis==1.0.2", "transformers==4.26.1", "numpy==1.26.4", "pyarrow==21.0.0"} <= set(pins)


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTROLMILL_ENVIRONMENTS", str(tmp_path))
    assert environments.folder_of("blip-lavis") == tmp_path / "blip-lavis"
    monkeypatch.delenv("CONTROLMILL_ENVIRONMENTS")
    assert environments.folder_of("blip-lavis") == ROOT / "environments" / "blip-lavis" / ".venv"
    monkeypatch.setattr(environments, "_ROOT", tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert environments.folder_of("blip-lavis") == tmp_path / "data/controlmill/environments/blip-lavis"


def test_an_installation_without_pins_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "_ROOT", tmp_path)
    monkeypatch.setattr(environments, "__file__", str(tmp_path / "tasks" / "environments.py"))
    with pytest.raises(EnvironmentUnusableError, match=r"requirements\.txt is not in this installation"):
        environments.requirements("blip-lavis")


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(EnvironmentUnusableError, match="no environment 'blip'; there are blip-lavis"):
        environments.state("blip")
