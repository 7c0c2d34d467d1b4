"""What every group of options shares: frozen, no unknown keys, a docstring per field, errors that name the field."""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, SecretStr, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from controlmill.errors import ConfigError


class Options(BaseModel):
    """A frozen group of options; field docstrings become `--help`, the Prefect form and the reference."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=True, ser_json_inf_nan="strings"
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema behind Prefect's form, groups in the order of `--help`: pydantic has them the other way round."""
        made = handler(core)
        fields = handler.resolve_ref_schema(made).get("properties", {})
        ordered = {name: fields.pop(name) for owner in cls.__mro__ for name in own_fields(owner) if name in fields}
        fields.update(ordered)
        return made


def own_fields(owner: type) -> list[str]:
    """The names that a class itself annotates."""
    return list(vars(owner).get("__annotations__", {}))


OptionsT = TypeVar("OptionsT", bound=Options)

_CREDENTIALS = re.compile(r"://[^/@\s]+@")


def validate(model: type[OptionsT], values: dict[str, Any], prefix: str = "") -> OptionsT:
    """Build `model` from plain values; raise `ConfigError` naming each offending field, its value and the cause.

    `prefix` stands before the names where the model is a part of something larger: "annotator_options.canny.".
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(prefix + _explain(item, model) for item in _causes(error))) from error


def refuse_credentials(options: Options) -> None:
    """Raise `ConfigError` where an option holds an URI with a user name or password.

    Options are shown: on Prefect's page, in the list of processes, in files of a run.
    """
    for name, value in _leaves(options, ""):
        if isinstance(value, str) and _CREDENTIALS.search(value):
            raise ConfigError(
                f"{name}: holds an URI with a user name or password; options are shown in logs and pages: give it "
                "without, and the credentials in the environment"
            )


def refuse_secrets(options: Options, remedy: str) -> None:
    """Raise `ConfigError` where an option is a secret: options that are handed on would lose it, or show it.

    Args:
        options: what is to be handed on.
        remedy: how to give the secret instead; the message ends with it.
    """
    for name, value in _leaves(options, ""):
        if isinstance(value, SecretStr):
            raise ConfigError(f"{name}: it is a secret, which is not handed on with options; {remedy}")


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every value in a tree of options, lists and dicts, with its name."""
    if isinstance(value, Options):
        for field in type(value).model_fields:
            yield from _leaves(getattr(value, field), f"{name}.{field}".lstrip("."))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item, name)
    else:
        yield name, value


def unknown_option(model: type[Options], name: str) -> str:
    """What to say of an option that `model` does not have."""
    close = difflib.get_close_matches(name, model.model_fields, n=1)
    return f"{name}: there is no such option" + (f"; did you mean {close[0]}?" if close else "")


def _causes(error: ValidationError) -> list[Any]:
    """The errors without those that only follow from a bad item: a list is too short where its one item is refused."""
    items = error.errors()
    return [
        item
        for item in items
        if item["type"] != "too_short" or not any(other["loc"][:-1] == item["loc"] for other in items)
    ]


def _explain(item: Any, model: type[Options]) -> str:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return unknown_option(model, name)
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing" or not name:
        return f"{name}: {message}" if name else message
    return f"{name}: {message} (got {item['input']!r}){_suggestion(item)}"


def _suggestion(item: Any) -> str:
    expected = str(item.get("ctx", {}).get("expected", "")).replace(" or ", ", ").split(", ")
    close = difflib.get_close_matches(repr(item["input"]), expected, n=1)
    return f"; did you mean {close[0].strip(chr(39))}?" if close else ""


def load_yaml(path: str) -> dict[str, Any]:
    """Options from a YAML file, hyphens in keys accepted; raise `ConfigError` naming file and line where it is none."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the config file: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: a config file is a mapping of option names to values, not a {type(values).__name__}"
        )
    return {str(name).replace("-", "_"): value for name, value in values.items()}


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """`["image_size=256", "annotator_options.canny.low_threshold=50"]` as nested values, read as YAML scalars."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"{pair!r}: expected option=value")
        *parents, leaf = name.replace("-", "_").split(".")
        target = values
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ConfigError(f"{pair!r}: {parent} is given both a value and options of its own")
        try:
            target[leaf] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{pair!r}: not a YAML value") from error
    return values
