"""`controlmill weights`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from controlmill.cli.options import CONTEXT_SETTINGS
from controlmill.config import CaptionOptions
from controlmill.errors import ConfigError, WeightsUnusableError

if TYPE_CHECKING:
    from storage.weights.reference import FoundWeights, WeightsFile

_TEXT = """Weights of networks: where they are, and whether they are the published ones.

A file is looked for in the folders of $CONTROLMILL_WEIGHTS (as owner/name/file, name/file or file), then in the cache
of Hugging Face, then on its hub, unless HF_HUB_OFFLINE is set. NAME is an annotator, or a captioner's model on
the hub, as owner/name or owner/name@revision; by default all annotators and the captioners' default model.
"""
_CAPTIONERS = ("blip", "lavis")
_VERDICTS = {
    "published": "as published",
    "another": "not the published file",
    "unknown": "no published hash to compare with",
    "missing": "not on this machine",
}


def files_of(names: Sequence[str]) -> dict["WeightsFile", list[str]]:
    """The files that annotators and captioners' models may need, each with those that need it.

    Raises:
        ConfigError: there is no such annotator, it has no weights, or a model is not written as one.
    """
    from tasks.annotators import registry

    files: dict[WeightsFile, list[str]] = {}
    usual = [name for name in registry.names() if name not in registry.PRESETS]
    for name in names or [*usual, CaptionOptions.model_fields["model"].default]:
        weights = _files_of_model(name) or registry.find(name).weights
        if names and not weights:
            raise ConfigError(f"{name}: this annotator needs no weights")
        for file in weights:
            files.setdefault(file, []).append(name)
    return files


def _files_of_model(name: str) -> tuple["WeightsFile", ...]:
    """The files of a captioner's model; none where the name is not that of one."""
    if name in _CAPTIONERS:
        raise ConfigError(f"{name}: a captioner has the weights that its option model names; give that, as owner/name")
    if "/" not in name or ".py:" in name:
        return ()
    from tasks.captioners.model import model_files

    return model_files(name)


def run_list(names: Sequence[str]) -> None:
    """Print where each file is."""
    from storage.weights.survey import find

    files = files_of(names)
    rows = [
        (_name(file, found), file.repository, ", ".join(files[file]), _place(file, found))
        for file, found in find(list(files))
    ]
    _print([("file", "of", "for", "on this machine"), *rows])


def run_fetch(names: Sequence[str]) -> None:
    """Have every file on this machine."""
    from storage.weights.resolve import resolve

    for found in resolve(list(files_of(names))):
        click.echo(f"{found.file}: {found.path}")


def run_verify(names: Sequence[str]) -> None:
    """Read every file that is there and compare it with the published one."""
    from storage.weights.survey import verify

    verified = [verify(file) for file in files_of(names)]
    rows = [(_name(one.file, one.found), _VERDICTS[one.verdict], _place(one.file, one.found)) for one in verified]
    _print([("file", "", "on this machine"), *rows])
    others = [str(one.found.path) for one in verified if one.found and one.verdict == "another"]
    if others:
        raise WeightsUnusableError(f"weights: not the published files: {', '.join(others)}")


def _name(file: "WeightsFile", found: "FoundWeights | None") -> str:
    """What the file is called: another name where one is there that serves as well."""
    return found.file.filename if found else file.filename


def _place(file: "WeightsFile", found: "FoundWeights | None") -> str:
    if found:
        return str(found.path)
    return "- (not every model has it)" if file.optional else "-"


def _print(rows: list[tuple[str, ...]]) -> None:
    """Print columns side by side; paths come last, whole, to be copied."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _subcommand(name: str, text: str, run: Any) -> click.Command:
    return click.Command(
        name,
        params=[click.Argument(["names"], nargs=-1, metavar="[NAME]...")],
        callback=run,
        help=text,
        context_settings=CONTEXT_SETTINGS,
    )


command = click.Group(
    "weights",
    commands=[
        _subcommand("list", "Show which files there are, and where they are on this machine.", run_list),
        _subcommand("fetch", "Download what is not on this machine.", run_fetch),
        _subcommand("verify", "Read what is on this machine and compare it with what was published.", run_verify),
    ],
    help=_TEXT,
    context_settings=CONTEXT_SETTINGS,
)
