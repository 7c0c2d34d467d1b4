"""Text to values, in the spellings of a command line, of YAML and of img2dataset (which reads its line with fire)."""

import enum
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

from controlmill.config import parse_overrides
from controlmill.errors import ConfigError

Kind = Literal["flag", "sequence", "mapping", "scalar"]

_METAVARS: dict[Any, str] = {int: "INTEGER", float: "NUMBER", str: "TEXT"}
_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})
_NONE = frozenset({"None", "none", "null"})


@dataclass(frozen=True, slots=True)
class Shape:
    """What a field's annotation says about how its value is written."""

    kind: Kind
    optional: bool
    metavar: str
    choices: tuple[str, ...] = ()


def shape_of(annotation: Any) -> Shape:
    """The shape of a field of an option model, from its type annotation."""
    annotation = _bare(annotation)
    optional = False
    if get_origin(annotation) in (Union, UnionType):
        members = [_bare(member) for member in get_args(annotation)]
        optional = NoneType in members
        annotation = next(member for member in members if member is not NoneType)
    origin = get_origin(annotation) or annotation
    if annotation is bool:
        return Shape("flag", optional, "")
    if origin is dict:
        nested = (get_origin(_bare(get_args(annotation)[1])) or get_args(annotation)[1]) is dict
        return Shape("mapping", optional, "NAME.OPTION=VALUE" if nested else "OPTION=VALUE")
    if origin is tuple:
        parts = [_bare(part) for part in get_args(annotation)]
        metavar = ",".join("..." if part is Ellipsis else _metavar(part) for part in parts)
        return Shape("sequence", optional, metavar, _choices(parts[0]))
    return Shape("scalar", optional, _metavar(annotation), _choices(annotation))


def _bare(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _choices(annotation: Any) -> tuple[str, ...]:
    if get_origin(annotation) is Literal:
        return tuple(str(value) for value in get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return tuple(str(member.value) for member in annotation)
    return ()


def _metavar(annotation: Any) -> str:
    choices = _choices(annotation)
    if not choices:
        return _METAVARS.get(annotation, "TEXT")
    text = "|".join(choices)
    return f"[{text}]" if len(text) <= 40 else annotation.__name__.upper() if isinstance(annotation, type) else "NAME"


def read_flag(name: str, text: str) -> bool:
    """`True`, `false`, `1`, `no` …; raise `ConfigError` for anything else."""
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ConfigError(f"{name}: takes True or False, not {text!r}")


def is_flag_value(text: str) -> bool:
    """Whether `text` can only be meant as the value of the flag before it."""
    return text.lower() in _TRUE | _FALSE


def is_unset(shape: Shape, value: object) -> bool:
    """Whether `value` is img2dataset's way to say "the default" for a list: None."""
    return shape.kind == "sequence" and not shape.optional and (value is None or value in ("None", "none", "null"))


def read(name: str, shape: Shape, value: object) -> object:
    """Read the text of one option as the plain value that its model validates; what is not text passes through.

    Raises:
        ConfigError: it is not a list, or not a mapping, where the option needs one.
    """
    if not isinstance(value, str):
        return value
    if shape.optional and value in _NONE:
        return None
    if shape.kind == "flag":
        return read_flag(name, value)
    if shape.kind == "sequence":
        return _sequence(name, value)
    if shape.kind == "mapping":
        return _mapping(name, value)
    return value


def _sequence(name: str, text: str) -> list[object]:
    text = text.strip()
    if not text.startswith(("[", "(")):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        # BaseLoader keeps every item as the text that was written: a column may be named 1, no or null
        items = yaml.load(f"[{text[1:-1]}]", Loader=yaml.BaseLoader) if text[-1] in "])" else None  # noqa: S506 makes only strings
    except yaml.YAMLError:
        items = None
    if not isinstance(items, list):
        raise ConfigError(f'{name}: {text!r} is not a list; write a,b or ["a", "b"]')
    return items


def _mapping(name: str, text: str) -> dict[str, Any]:
    if not text.lstrip().startswith("{"):
        return parse_overrides([text])
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: {text!r} is not JSON: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: {text!r} is not a mapping")
    return value


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over` laid on it, mapping by mapping."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
