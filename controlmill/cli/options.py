"""One model of options to one command: its click options, their help, and the spellings that the parser accepts."""

from collections.abc import Iterator
from typing import Any

import click

from controlmill.cli.peer import Peer
from controlmill.cli.values import Shape, is_flag_value, read_flag, shape_of
from controlmill.config import Options
from controlmill.errors import ConfigError

CONTEXT_SETTINGS: dict[str, Any] = {
    "token_normalize_func": lambda name: name.replace("_", "-"),
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
}
GENERAL = "General"


class FieldOption(click.Option):
    """An option made from the field of a model; its value stays text until the model validates it."""

    def __init__(
        self, field: str, heading: str, declarations: list[str], *, hide_off: bool = False, **attributes: Any
    ) -> None:
        super().__init__(declarations, **attributes)
        self.field = field
        self.heading = heading
        self._hide_off = hide_off

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Leave `--no-…` out of the help of what is off anyway."""
        record = super().get_help_record(ctx)
        if record is None or not self._hide_off:
            return record
        return self.opts[0], record[1]


def groups_of(model: type[Options]) -> dict[str, list[str]]:
    """The fields of `model` by the group that declares them (its class name without "Options"), in their order."""
    groups: dict[str, list[str]] = {}
    for owner in model.__mro__:
        fields = [field for field in vars(owner).get("__annotations__", {}) if field in model.model_fields]
        if fields:
            groups[owner.__name__.removesuffix("Options").removesuffix("Config")] = fields
    return groups


def default_text(model: type[Options], field: str) -> str:
    """The default of a field as `--help` and the reference show it; "required" or "none" in words."""
    info = model.model_fields[field]
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if value is None or value in ((), {}):
        return "none"
    return ",".join(str(item) for item in value) if isinstance(value, tuple) else str(value)


def flag_names(field: str) -> tuple[str, str]:
    """The two spellings of a boolean option: `--skip-reencode`, `--no-skip-reencode`."""
    name = field.replace("_", "-")
    return f"--{name}", f"--no-{name}"


def field_options(model: type[Options], *, without: frozenset[str] = frozenset()) -> Iterator[FieldOption]:
    """A click option for every field of `model` but those in `without`, group by group."""
    for heading, fields in groups_of(model).items():
        for field in fields:
            if field not in without and not is_part(model, field):
                yield _field_option(model, heading, field)


def is_part(model: type[Options], field: str) -> bool:
    """Whether a field holds the options of another command: given in a file, or as part.option=value."""
    annotation = model.model_fields[field].annotation
    return isinstance(annotation, type) and issubclass(annotation, Options)


def _field_option(model: type[Options], heading: str, field: str) -> FieldOption:
    info = model.model_fields[field]
    shape = shape_of(info.annotation)
    return FieldOption(
        field,
        heading,
        _declarations(field, shape),
        help=_help(model, field, shape),
        metavar=shape.metavar or None,
        multiple=shape.kind in ("sequence", "mapping"),
        default=None,
        hide_off=info.default is False,
        **({"is_flag": True} if shape.kind == "flag" else {"type": str}),
    )


def _declarations(field: str, shape: Shape) -> list[str]:
    on, off = flag_names(field)
    return [field, f"{on}/{off}"] if shape.kind == "flag" else [field, on]


def _help(model: type[Options], field: str, shape: Shape) -> str:
    parts = [model.model_fields[field].description or ""]
    if shape.choices and not shape.metavar.startswith("["):
        parts.append(f"One of {', '.join(shape.choices)}.")
    default = default_text(model, field)
    if default not in ("none", "False"):
        parts.append(f"[{'required' if default == 'required' else f'default: {default}'}]")
    return " ".join(parts)


def missing_options(peer: Peer, taken: frozenset[str]) -> Iterator[FieldOption]:
    """Hidden options for what another program has and the command has not, so that they can be answered by name."""
    for field in peer.renamed:
        yield FieldOption(
            field, GENERAL, _declarations(field, Shape("scalar", optional=False, metavar="")), hidden=True
        )
    for field, missing in peer.missing.items():
        if field in taken:
            continue
        shape = Shape("flag" if missing.is_flag else "scalar", optional=False, metavar="")
        kind: dict[str, Any] = {"is_flag": True} if missing.is_flag else {"type": str}
        yield FieldOption(field, GENERAL, _declarations(field, shape), hidden=True, default=None, **kind)


def spell_flags(arguments: list[str], flags: frozenset[str]) -> list[str]:
    """Turn `--skip_reencode True`, `--skip_reencode=False` and `--noskip_reencode` into the two spellings of a flag.

    Args:
        arguments: the words of the command line.
        flags: the fields that are boolean.
    """
    spelled: list[str] = []
    words = iter(enumerate(arguments))
    for position, word in words:
        if word == "--":
            return spelled + arguments[position:]
        name, equals, value = word.removeprefix("--").partition("=")
        field = name.replace("-", "_")
        if not word.startswith("--") or (field not in flags and field.removeprefix("no") not in flags):
            spelled.append(word)
            continue
        negated = field not in flags
        field = field.removeprefix("no") if negated else field
        if not equals and position + 1 < len(arguments) and is_flag_value(arguments[position + 1]):
            value = next(words)[1]
        on = (read_flag(field, value) if value or equals else True) is not negated
        spelled.append(flag_names(field)[0 if on else 1])
    return spelled


class OptionsCommand(click.Command):
    """A command whose options are grouped under headings and understand img2dataset's spellings."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Spell flags as click wants them, then parse."""
        flags = frozenset(option.field for option in self._field_options() if option.is_flag)
        return super().parse_args(ctx, spell_flags(args, flags))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options group by group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                heading = parameter.heading if isinstance(parameter, FieldOption) else GENERAL
                groups.setdefault(heading, []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records, col_max=36)

    def _field_options(self) -> Iterator[FieldOption]:
        for parameter in self.params:
            if isinstance(parameter, FieldOption):
                yield parameter


def unknown_positional(word: str) -> ConfigError:
    """The error for a word of the command line that is neither a config file nor option=value."""
    return ConfigError(
        f"{word!r}: neither a config file (.yaml, .yml) nor option=value; a list of URLs is given with --url-list"
    )
