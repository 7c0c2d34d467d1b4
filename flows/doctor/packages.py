"""Python, the libraries and the names that ours share the interpreter with."""

import importlib.util
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flows.doctor.finding import Finding

OURS = ("controlmill", "flows", "tasks", "training", "storage")
"""Our top-level packages: flat names, which other distributions may hold as well."""
_ROOT = Path(__file__).resolve().parent.parent.parent
_SHOWN = 3


def python() -> Iterator[Finding]:
    """The interpreter: the versions that are tested."""
    version = sys.version.split()[0]
    if (3, 11) <= sys.version_info < (3, 14):
        yield Finding("Python", "good", f"{version}, {sys.prefix}")
    else:
        yield Finding("Python", "problem", version, "use Python 3.11, 3.12 or 3.13")


def libraries() -> Iterator[Finding]:
    """Direct dependencies against their bounds, all installed ones against the pinned versions."""
    broken = list(_out_of_bounds())
    if broken:
        remedy = "reinstall: pip install --constraint constraints.txt --editable ."
        yield Finding("libraries", "problem", "; ".join(broken), remedy)
        return
    pinned = _pinned()
    other = [
        f"{name} {metadata.version(name)} (tested: {version})"
        for name, version in pinned.items()
        if _installed(name) not in (None, version)
    ]
    if not pinned:
        yield Finding("libraries", "note", "all within their bounds; this installation has no constraints.txt")
    elif other:
        shown = ", ".join(other[:_SHOWN]) + (f" and {len(other) - _SHOWN} more" if len(other) > _SHOWN else "")
        yield Finding("libraries", "note", shown, "to have the tested ones: pip install --constraint constraints.txt …")
    else:
        yield Finding("libraries", "good", f"the {len(pinned)} pinned versions")


def names() -> Iterator[Finding]:
    """Whether `import tasks` and its like find ours: a distribution with a package of that name hides or mixes them."""
    owners = metadata.packages_distributions()
    problems = []
    for name in OURS:
        others = {owner for owner in owners.get(name, ()) if canonicalize_name(owner) != "controlmill"}
        if others:
            problems.append(f"{name} is also a package of {', '.join(sorted(others))}")
        elif not _is_ours(name):
            problems.append(f"{name} is imported from {_origin(name)}")
    if problems:
        remedy = "use a virtual environment without them, and start from another folder"
        yield Finding("package names", "problem", "; ".join(problems), remedy)
    else:
        yield Finding("package names", "good", f"{', '.join(OURS)} from {_ROOT}")


def _out_of_bounds() -> Iterator[str]:
    for text in metadata.requires("controlmill") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _installed(requirement.name)
        if version is None:
            yield f"{requirement.name} is not installed"
        elif not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name} {version} is not {requirement.specifier}"


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _pinned() -> dict[str, str]:
    """What constraints.txt pins: in the checkout, or beside our package in an installed one."""
    for folder in (_ROOT, _ROOT / "controlmill"):
        path = folder / "constraints.txt"
        if path.is_file():
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "==" in line]
            return dict(line.split("==", 1) for line in lines)
    return {}


def _origin(name: str) -> str | None:
    spec = importlib.util.find_spec(name)
    return spec.origin if spec else None


def _is_ours(name: str) -> bool:
    origin = _origin(name)
    return origin is not None and Path(origin).resolve().is_relative_to(_ROOT)
