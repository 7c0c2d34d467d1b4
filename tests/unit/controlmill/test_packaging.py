"""What is declared, pinned and published agrees with itself."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[3]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins() -> dict[str, Version]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    found = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+]+)", line)
        assert match, f"{line!r}: a constraint is name==version and nothing else"
        found[canonicalize_name(match[1])] = Version(match[2])
    return found


def requirements() -> list[str]:
    extras = [line for lines in PROJECT["project"]["optional-dependencies"].values() for line in lines]
    groups = [line for name in ("dev", "demo", "docs") for line in PROJECT["dependency-groups"][name]]
    return [*PROJECT["project"]["dependencies"], *extras, *groups]


@pytest.mark.parametrize("text", requirements())
def test_every_direct_dependency_is_pinned_within_its_bounds(text: str) -> None:
    requirement = Requirement(text)
    pinned = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned, prereleases=True)


@pytest.mark.parametrize(("name", "below"), [("fastapi", "0.151"), ("sqlalchemy", "2.1")])
def test_what_breaks_prefect_is_kept_out(name: str, below: str) -> None:
    assert pins()[name] < Version(below)
    (requirement,) = [
        Requirement(line) for line in PROJECT["project"]["dependencies"] if Requirement(line).name == name
    ]
    assert not requirement.specifier.contains(below)


def test_the_license_is_the_declared_one() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_changelog_knows_the_version() -> None:
    from controlmill import __version__

    assert re.search(rf"^## {re.escape(__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_constraints_are_written_from_names_and_versions_only(tmp_path: Path) -> None:
    place = {"url": "file:///somewhere/b_c-1.0-py3-none-any.whl"}
    items = [("b_c", "1.0"), ("A", "2.1+local"), ("controlmill", "0.1.0")]
    report = {
        "install": [{"metadata": {"name": name, "version": version}, "download_info": place} for name, version in items]
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    target = tmp_path / "constraints.txt"
    command = [sys.executable, str(ROOT / ".ci" / "constraints.py"), str(tmp_path / "report.json"), str(target)]
    subprocess.run(command, check=True)
    header, *lines = target.read_text().splitlines()
    assert header.startswith("#")
    assert lines == ["A==2.1+local", "b_c==1.0"]
