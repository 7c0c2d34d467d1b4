"""Python environments of their own, for libraries whose pins cannot live beside ours.

An environment is a virtual environment with what `environments/<name>/requirements.txt` pins and with this process's
version of Python. Its stamp file is written last: one without a valid stamp is not there, and is made anew.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from controlmill.errors import EnvironmentUnusableError

FOLDER_VARIABLE = "CONTROLMILL_ENVIRONMENTS"
_STAMP = "controlmill.json"
_ROOT = Path(__file__).resolve().parent.parent
_NUM_LAST_LINES = 3

Say = Callable[[str], None]
"""Told what is being done, one line at a time."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What an isolated environment is for, and what it needs."""

    name: str
    purpose: str
    python: tuple[int, int]
    """The one version of Python that its libraries are built for."""
    why_python: str
    imports: tuple[str, ...]
    """Modules that must be importable in it."""


ENVIRONMENTS = {
    "blip-lavis": Environment(
        "blip-lavis",
        "captions by salesforce-lavis 1.0.2 (--captioner lavis)",
        (3, 11),
        "its transformers 4.26 needs a tokenizers 0.13 that is not built for others; --captioner blip has no such need",
        ("lavis.models.blip_models.blip_caption", "lavis.processors.blip_processors", "safetensors", "ray"),
    )
}


@dataclass(frozen=True, slots=True)
class State:
    """What there is of an environment."""

    environment: Environment
    folder: Path
    problem: str | None
    """Why it cannot be used; None where it can."""
    num_bytes: int | None = None
    """Size on disk, as it was when it was made."""

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"


def find(name: str) -> Environment:
    """The environment of this name.

    Raises:
        EnvironmentUnusableError: there is none.
    """
    if name not in ENVIRONMENTS:
        raise EnvironmentUnusableError(f"there is no environment {name!r}; there are {', '.join(sorted(ENVIRONMENTS))}")
    return ENVIRONMENTS[name]


def requirements(name: str) -> str:
    """The pins, from the checkout or from beside this module in an installed package.

    Ray speaks only with its own version: the pin of it becomes that of this environment.

    Raises:
        EnvironmentUnusableError: there is no such file.
    """
    for folder in (_ROOT / "environments", Path(__file__).resolve().parent / "environments"):
        path = folder / name / "requirements.txt"
        if path.is_file():
            return re.sub(r"(?m)^(ray\[default\]==).+$", rf"\g<1>{version('ray')}", path.read_text(encoding="utf-8"))
    raise EnvironmentUnusableError(f"{name}: its requirements.txt is not in this installation; reinstall controlmill")


def folder_of(name: str) -> Path:
    """Where an environment is: $CONTROLMILL_ENVIRONMENTS, the checkout, or the user's data folder."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given:
        return Path(given).expanduser() / name
    if (_ROOT / "environments" / name).is_dir():
        return _ROOT / "environments" / name / ".venv"
    from platformdirs import user_data_path

    return user_data_path("controlmill") / "environments" / name


def state(name: str) -> State:
    """Look at an environment without starting its interpreter."""
    environment, folder = find(name), folder_of(name)
    stamp = _read_stamp(folder)
    if stamp is None:
        half = "half made" if folder.exists() else "not made"
        return State(environment, folder, f"it is {half}; run `controlmill env create {name}`")
    size = stamp.get("num_bytes")
    different = {key: stamp.get(key) for key, value in _wanted(name).items() if stamp.get(key) != value}
    if different:
        was = ", ".join(f"{key} {value}" for key, value in different.items())
        return State(
            environment, folder, f"it was made for other pins ({was}); run `controlmill env create {name}`", size
        )
    if not (folder / "bin" / "python").exists():
        problem = f"the Python that it was made with is gone; run `controlmill env create {name}`"
        return State(environment, folder, problem, size)
    return State(environment, folder, None, size)


def require(name: str) -> State:
    """An environment that can be used.

    Raises:
        EnvironmentUnusableError: it is not there, was made for other pins, or has lost its Python.
    """
    found = state(name)
    if found.problem is not None:
        raise EnvironmentUnusableError(f"environment {name} ({found.folder}): {found.problem}")
    return found


def check(name: str) -> dict[str, str]:
    """Import what an environment is for, in its interpreter; returns versions of its distributions that count.

    Raises:
        EnvironmentUnusableError: it is not there, or something in it cannot be imported.
    """
    found = require(name)
    script = (
        "import importlib, importlib.metadata as metadata, json, sys, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "names = ('salesforce-lavis', 'transformers', 'torch', 'numpy', 'ray')\n"
        "print('\\n' + json.dumps({name: metadata.version(name) for name in names}))\n"
    )
    done = subprocess.run(  # noqa: S603 - our own script, names from the table above
        [found.python, "-I", "-c", script, *found.environment.imports], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        reason = " ".join(done.stderr.strip().splitlines()[-1:]) or f"exit code {done.returncode}"
        again = f"delete {found.folder} and run `controlmill env create {name}`"
        raise EnvironmentUnusableError(f"environment {name}: {reason}; {again}")
    versions: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    return versions


def create(name: str, say: Say) -> State:
    """Make an environment, unless it is there as it should be; some minutes, some gigabytes.

    Whatever ends it on the way, the next call starts anew; two at once wait for each other.

    Raises:
        EnvironmentUnusableError: this Python is another one than it needs, or venv or pip failed; the message says why.
    """
    environment, folder = find(name), folder_of(name)
    if sys.version_info[:2] != environment.python:
        needed, ours = (".".join(map(str, one[:2])) for one in (environment.python, sys.version_info))
        raise EnvironmentUnusableError(f"{name} needs Python {needed}, this is {ours}: {environment.why_python}")
    with _alone(folder, say):
        found = state(name)
        if found.problem is None:
            return found
        shutil.rmtree(folder, ignore_errors=True)
        log_path = folder.with_name(f"{folder.name}.log")
        log_path.unlink(missing_ok=True)
        say(f"making {folder} (log: {log_path})")
        _run([sys.executable, "-m", "venv", str(folder)], log_path, "venv")
        say("installing its libraries: some minutes, some gigabytes")
        pins = folder / "requirements.txt"
        pins.write_text(requirements(name), encoding="utf-8")
        pip = [str(found.python), "-m", "pip", "--no-input", "--disable-pip-version-check", "install"]
        # what is imported is compiled then; to compile all of it takes longer than to unpack it
        _run([*pip, "--no-compile", "--requirement", str(pins)], log_path, "pip")
        num_bytes = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
        _write_stamp(folder, {**_wanted(name), "num_bytes": num_bytes})
        return require(name)


def _wanted(name: str) -> dict[str, Any]:
    """What the stamp of a usable environment says."""
    return {"requirements": sha256(requirements(name).encode()).hexdigest(), "python": sys.version.split()[0]}


def _read_stamp(folder: Path) -> dict[str, Any] | None:
    try:
        stamp = json.loads((folder / _STAMP).read_text())
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) else None


def _write_stamp(folder: Path, stamp: dict[str, Any]) -> None:
    temporary = folder / f".{_STAMP}.tmp"
    temporary.write_text(json.dumps(stamp, indent=2))
    temporary.replace(folder / _STAMP)


@contextmanager
def _alone(folder: Path, say: Say) -> Iterator[None]:
    lock_path = folder.with_name(f"{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_path.open("w")
    except OSError as error:
        raise EnvironmentUnusableError(f"cannot write to {folder.parent}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is making it: waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: list[str], log_path: Path, what: str) -> None:
    """Run a command with its output in the log; its last errors become the message where it fails."""
    # no package of this process's may shine through
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    with log_path.open("ab") as log_file:
        done = subprocess.run(command, stdout=log_file, stderr=subprocess.STDOUT, env=environment, check=False)  # noqa: S603 - commands of this file
    if done.returncode == 0:
        return
    lines = [line.strip() for line in log_path.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()] or lines
    reason = " | ".join(errors[-_NUM_LAST_LINES:]) or f"exit code {done.returncode}"
    raise EnvironmentUnusableError(f"{what} failed: {reason}; the whole log is {log_path}")
