"""Libraries and names: distributions that are really there, made in a folder of the search path."""

import sys
from pathlib import Path

import pytest

from flows.doctor import packages


def distribution(folder: Path, name: str, version: str, *, top_level: str | None = None) -> None:
    """Lay an installed distribution into a folder, as pip would."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"{info.name}/METADATA,,", f"{info.name}/RECORD,,"]
    if top_level:
        (folder / top_level).mkdir()
        (folder / top_level / "__init__.py").touch()
        lines.append(f"{top_level}/__init__.py,,")
    (info / "RECORD").write_text("\n".join(lines))


def test_this_environment_is_as_it_should_be() -> None:
    assert [one.verdict for one in packages.python()] == ["good"]
    assert [one.verdict for one in packages.names()] == ["good"]
    assert all(one.verdict != "problem" for one in packages.libraries())


def test_a_package_with_one_of_our_names_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "celery_things", "1.0", top_level="tasks")
    monkeypatch.syspath_prepend(tmp_path)
    (finding,) = packages.names()
    assert finding.verdict == "problem"
    assert "tasks is also a package of celery_things" in finding.found
    assert finding.remedy


def test_a_library_out_of_its_bounds_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "fastapi", "0.163.0")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (finding,) = packages.libraries()
    assert (finding.verdict, finding.found) == ("problem", "fastapi 0.163.0 is not <0.151")


def test_another_version_than_the_tested_one_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "rich", "14.99.0")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (finding,) = packages.libraries()
    assert finding.verdict == "note"
    assert "rich 14.99.0 (tested: " in finding.found
