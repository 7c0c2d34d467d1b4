"""An annotator in a file of the user's, `folder/file.py:Class`: no package, nothing to install.

The file is the code, so its bytes belong to what a layer was made with: an edited file makes the layer again. Workers
load the file for themselves, by its absolute path; on a cluster it has to be on every machine, the same.
"""

import copyreg
import hashlib
import importlib.util
import sys
from collections.abc import Mapping
from importlib.abc import InspectLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

from controlmill.errors import ConfigError
from tasks.annotators.base import Annotator

MARK: Final = ".py:"
"""What a name has that means a class in a file."""


def is_in_file(name: str) -> bool:
    """Whether a name of an annotator is that of a class in a file."""
    return MARK in name


def load(name: str) -> object:
    """What the file of `folder/file.py:Class` calls `Class`; the same object while the file stays the same.

    Raises:
        ConfigError: there is no such file, running it fails, or it has no such class.
    """
    text, _, attribute = name.rpartition(":")
    path = Path(text).absolute()
    module = _module(name, path)
    try:
        found = getattr(module, attribute)
    except AttributeError as error:
        classes = ", ".join(sorted(_annotators_of(module))) or "no annotator"
        raise ConfigError(f"annotators: {name!r}: {path} has no {attribute!r}; it has {classes}") from error
    if attribute in _annotators_of(module):
        found.source_sha256 = module.source_sha256
        _names[found] = f"{path}:{attribute}"
        copyreg.pickle(found, _to_worker)
    return found


def _annotators_of(module: ModuleType) -> set[str]:
    return {
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Annotator) and value.__module__ == module.__name__
    }


class _Source(InspectLoader):
    """Runs the bytes that were hashed, whatever is in the file by then; leaves no `__pycache__` beside it."""

    def __init__(self, path: Path, source: bytes) -> None:
        self._path = path
        self._source = source

    def get_source(self, fullname: str) -> str:
        """The text of the file."""
        del fullname
        return importlib.util.decode_source(self._source)

    def get_code(self, fullname: str) -> CodeType:
        """The file, compiled."""
        del fullname
        return self.source_to_code(self._source, str(self._path))


def _module(name: str, path: Path) -> ModuleType:
    try:
        source = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"annotators: {name!r}: there is no file {path}") from error
    except OSError as error:
        raise ConfigError(f"annotators: {name!r}: cannot read {path}: {error.strerror}") from error
    sha256 = hashlib.sha256(source).hexdigest()
    # path and content are part of the name: two files may both be called annotator.py, and one may be edited
    module_name = f"controlmill_annotator_{hashlib.sha256(f'{path} {sha256}'.encode()).hexdigest()[:16]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_loader(module_name, _Source(path, source), origin=str(path))
    assert spec is not None  # noqa: S101  a loader without packages always gives one
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    module.source_sha256 = sha256  # type: ignore[attr-defined]
    # dataclasses and pickle look their module up by name
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        # running a user's file may raise anything, and it is the user's to mend
        del sys.modules[module_name]
        raise ConfigError(f"annotators: {name!r}: {path} {_where(error, path)}: {_what(error)}") from error
    return module


def _where(error: BaseException, path: Path) -> str:
    """The line of the file that failed, not the one of whatever it called."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"fails at line {error.lineno}"
    frame, line = error.__traceback__, None
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == str(path):
            line = frame.tb_lineno
        frame = frame.tb_next
    return f"fails at line {line}" if line else "fails"


def _what(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


_names: dict[type[Annotator], str] = {}


def _to_worker(unit: Annotator) -> tuple[Any, tuple[str, str | None], Mapping[str, Any]]:
    """How pickle sends an annotator of a file: by where the file is, because its module cannot be imported."""
    return _in_worker, (_names[type(unit)], unit.source_sha256), unit.__getstate__()


def _in_worker(name: str, sha256: str) -> Annotator:
    found = load(name)
    assert isinstance(found, type)  # noqa: S101  it was one where it was sent from
    assert issubclass(found, Annotator)  # noqa: S101
    if found.source_sha256 != sha256:
        raise ConfigError(
            f"annotators: {name!r} is not the file that the run was started with; all machines of a run need the same "
            "file, and it must not be edited while they run"
        )
    return found.__new__(found)
