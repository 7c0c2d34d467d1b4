"""Annotators in files of the user's, and weights: what is typed relative to this folder, workers need in full.

Options of such an annotator are given by the name of its class, because a path has dots in it:
`annotator_options.MyAnnotator.width=3`.
"""

import os
from collections.abc import Mapping
from os.path import normpath
from pathlib import Path
from typing import Any

from controlmill.errors import ConfigError
from storage.weights.reference import FOLDER_VARIABLE

_MARK = ".py:"
_PART = "build"
"""Where a command takes the options of that one."""


def anchored(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options with absolute paths in `annotators`, as keys of `annotator_options`, and as `weights` of an annotator.

    Raises:
        ConfigError: options are for a class that two of the files have.
    """
    found = {name: anchored(value) if name == _PART else value for name, value in values.items()}
    names, options = found.get("annotators"), found.get("annotator_options")
    if isinstance(names, list | tuple):
        found["annotators"] = names = [_anchored(name) for name in names]
        if isinstance(options, Mapping):
            found["annotator_options"] = {_key(key, names): _with_weights(value) for key, value in options.items()}
    return found


def anchor_weights_folders() -> None:
    """Write the folders of $CONTROLMILL_WEIGHTS in full, for the processes that inherit it."""
    folders = os.environ.get(FOLDER_VARIABLE)
    if folders:
        os.environ[FOLDER_VARIABLE] = os.pathsep.join(_in_full(path) for path in folders.split(os.pathsep) if path)


def _with_weights(options: Any) -> Any:
    """Options of an annotator, with the absolute path of its weights."""
    if not isinstance(options, Mapping) or not isinstance(weights := options.get("weights"), str):
        return options
    return {**options, "weights": _in_full(weights)}


def _in_full(path: str) -> str:
    return normpath(Path(path).expanduser().absolute())


def _anchored(name: Any) -> Any:
    """The absolute path of a class in a file; anything else as it is."""
    if not isinstance(name, str) or _MARK not in name:
        return name
    path, _, attribute = name.rpartition(":")
    return f"{_in_full(path)}:{attribute}"


def _key(key: Any, names: list[Any]) -> Any:
    meant = [name for name in names if isinstance(name, str) and _MARK in name and name.rpartition(":")[2] == key]
    if key in names or not meant:
        return _anchored(key)
    if len(meant) > 1:
        raise ConfigError(f"annotator_options.{key}: there is a {key} in each of {', '.join(meant)}; rename one")
    return meant[0]
