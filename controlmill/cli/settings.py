"""What was typed to one validated configuration: YAML file < option=value < options."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import click

from controlmill.cli.annotator_files import anchor_weights_folders, anchored
from controlmill.cli.img2dataset import PEER as IMG2DATASET
from controlmill.cli.options import CONTEXT_SETTINGS, OptionsCommand, field_options, missing_options, unknown_positional
from controlmill.cli.peer import Peer
from controlmill.cli.values import is_unset, merge, read, shape_of
from controlmill.config import Options, load_yaml, parse_overrides, unknown_option, validate
from controlmill.config.base import refuse_credentials
from controlmill.errors import ConfigError
from controlmill.logs import LogFormat

OptionsT = TypeVar("OptionsT", bound=Options)

_OVERRIDE = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*=")


class ConfigCommand(OptionsCommand, Generic[OptionsT]):
    """A command that runs with one model of options."""

    def __init__(
        self,
        name: str,
        model: type[OptionsT],
        run: Callable[[OptionsT, LogFormat], None],
        *,
        text: str,
        dataset: bool = False,
        positional: str | None = None,
        peer: Peer = IMG2DATASET,
    ) -> None:
        """Make the command.

        Args:
            name: the word after `controlmill`.
            model: its options.
            run: what it does, given the validated options and how to log.
            text: its help.
            dataset: whether a positional DATASET stands for `output_folder`.
            positional: the field that a positional DATASET stands for, where it is another one.
            peer: the program whose command lines can be pasted.
        """
        positional = "output_folder" if dataset else positional
        words = (
            f"[{_noun(positional)}] [CONFIG.yaml] [OPTION=VALUE]..."
            if positional
            else "[CONFIG.yaml] [OPTION=VALUE]..."
        )
        self.model = model
        self._run = run
        self._positional = positional
        self._peer = peer
        super().__init__(
            name,
            params=[
                click.Argument(["words"], nargs=-1, metavar=words),
                *field_options(model, without=frozenset({"output_folder"}) if dataset else frozenset()),
                *missing_options(peer, frozenset(model.model_fields)),
                *general_options(),
            ],
            help=text,
            callback=lambda words, log_format, **given: self._start(words, log_format, given),
            context_settings=CONTEXT_SETTINGS,
            no_args_is_help=True,
        )

    def configuration(self, words: Sequence[str], given: Mapping[str, object]) -> OptionsT:
        """The validated options, from positional words and from options as click parsed them."""
        return assemble(self.model, words, given, positional=self._positional, peer=self._peer)

    def _start(self, words: Sequence[str], log_format: LogFormat, given: Mapping[str, object]) -> None:
        anchor_weights_folders()
        self._run(self.configuration(words, given), log_format)


def _noun(positional: str) -> str:
    """What the help calls the word that stands for a field."""
    return "RUN|CONTROLNET" if positional == "controlnet" else "DATASET"


def general_options() -> list[click.Option]:
    """Options of every command that are about the command line itself."""
    return [
        click.Option(
            ["--log-format"],
            type=click.Choice(["text", "json"]),
            default="text",
            help="How log events are written to stderr.  [default: text]",
        ),
        click.Option(
            ["--traceback"],
            is_flag=True,
            expose_value=False,
            help="Show where an error came from (also CONTROLMILL_TRACEBACK=1).",
        ),
    ]


def assemble(
    model: type[OptionsT],
    words: Sequence[str],
    given: Mapping[str, object],
    *,
    positional: str | None = None,
    peer: Peer = IMG2DATASET,
) -> OptionsT:
    """The validated configuration.

    Args:
        model: the options of the command.
        words: positional words: a dataset (where `positional`), config files, option=value.
        given: the options as click parsed them, None or () where not given.
        positional: the field that a word which is neither file nor option=value is for.
        peer: the program whose options are understood too.

    Raises:
        ConfigError: naming every option that is unknown, of a wrong type, impossible or without a counterpart.
    """
    values: dict[str, Any] = {}
    options = _plain(model, _joined(given), peer)
    overrides = [word for word in words if _OVERRIDE.match(word)]
    files = [word for word in words if word not in overrides and word.endswith((".yaml", ".yml"))]
    for path in files:
        values = merge(values, _plain(model, load_yaml(path), peer))
    values = merge(values, _plain(model, parse_overrides(overrides), peer))
    for word in words:
        if word not in overrides and word not in files:
            if positional is None or positional in values:
                raise unknown_positional(word)
            values[positional] = word
    values = merge(values, options)
    if positional is not None and positional not in values:
        noun = _noun(positional)
        raise ConfigError(f"{noun}: give the folder of the {'dataset' if noun == 'DATASET' else 'run or ControlNet'}")
    settings = validate(model, anchored(values))
    refuse_credentials(settings)
    return settings


def _joined(given: Mapping[str, object]) -> dict[str, Any]:
    """What was given, repetitions of an option still apart (a tuple)."""
    return {name: value for name, value in given.items() if value is not None and value != ()}


def _plain(model: type[Options], values: Mapping[str, Any], peer: Peer) -> dict[str, Any]:
    """Values that the model can validate, from text in any of the spellings; refuse names that it does not have."""
    values = {peer.renamed.get(name, name): value for name, value in values.items()}
    absent = {name for name in values if name in peer.missing and name not in model.model_fields}
    missing = {name: str(values[name]) for name in values if name in absent}
    problems = peer.refusals(missing)
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if name in missing:
            continue
        if name not in model.model_fields:
            problems.append(unknown_option(model, name))
            continue
        shape = shape_of(model.model_fields[name].annotation)
        parts = value if isinstance(value, tuple) else (value,)
        if not any(is_unset(shape, part) for part in parts):
            plain[name] = _together([read(name, shape, part) for part in parts])
    if problems:
        raise ConfigError("; ".join(problems))
    return plain


def _together(parts: list[Any]) -> Any:
    if all(isinstance(part, list) for part in parts):
        return [item for part in parts for item in part]
    result = parts[0]
    for part in parts[1:]:
        result = merge(result, part) if isinstance(result, dict) and isinstance(part, dict) else part
    return result
