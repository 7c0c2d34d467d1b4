"""`controlmill inspect`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from controlmill.cli.options import CONTEXT_SETTINGS
from controlmill.cli.settings import general_options
from controlmill.errors import ConfigError
from controlmill.reasons import MEANINGS, Reason

if TYPE_CHECKING:
    from controlmill.cli.survey import LayerSurvey, Survey

_MAX_HOSTS = 10
_MAX_MESSAGES = 10
_AGAIN = {"source": "the same build", "image": "the same build", "caption": "the same caption command"}


def print_survey(found: "Survey", console: Console) -> None:
    """Print a dataset: layers, what is incomplete, failures by reason and by host, flags."""
    planned = f"{found.num_planned_rows:,} rows planned in {found.num_planned_shards:,} shards"
    if found.num_retry_rows:
        planned += f", {found.num_retry_rows:,} of them to try a failed one again"
    state = "" if found.plan_complete else "; its source is not wholly planned"
    console.print(Text.assemble((found.dataset, "bold"), f"  {planned}{state}"), soft_wrap=True)
    console.print(_layers(found))
    for line in _incomplete(found):
        console.print(line, style="yellow", highlight=False, soft_wrap=True)
    if found.reasons:
        console.print(_failures(found))
    if found.hosts:
        console.print(_counts("failed by host", dict(found.hosts.most_common(_MAX_HOSTS))))
    for layer in found.layers:
        if layer.messages:
            console.print(_counts(f"{layer.name}: rows without", dict(layer.messages.most_common(_MAX_MESSAGES))))
        flags = {name: num for name, num in layer.flags.items() if num}
        if flags:
            console.print(_counts(f"{layer.name}: rows with flag", flags))


def _table(*columns: tuple[str, bool]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name, is_number in columns:
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    return table


def _layers(found: "Survey") -> Table:
    table = _table(
        ("\nlayer", False), ("\nrows", True), ("\nshards", True), ("\nsize", True), ("\nfingerprint", False),
        ("\nmade by", False), ("\nfrom", False),
    )  # fmt: skip
    for layer in found.layers:
        complete = layer.num_shards - len(layer.stale_shards) == found.num_planned_shards
        shards = Text(f"{layer.num_shards:,}/{found.num_planned_shards:,}", style="" if complete else "yellow")
        num_prints = len(layer.fingerprints)
        prints = next(iter(layer.fingerprints))[:12] if num_prints == 1 else f"{num_prints:,} different"
        table.add_row(
            layer.name, f"{layer.num_rows:,}", shards, _size(layer.num_bytes), prints, _unit(layer),
            ", ".join(layer.inputs),
        )  # fmt: skip
    return table


def _unit(layer: "LayerSurvey") -> str:
    return f"{layer.unit.get('name', '')} {layer.unit.get('version', '')}".strip()


def _annotator(layer: "LayerSurvey") -> str:
    """What is given as annotator to make a layer: its name, but for one in a file of the user's."""
    return "FILE.py:CLASS" if "source_sha256" in layer.unit.get("config", {}) else layer.name


def _incomplete(found: "Survey") -> list[str]:
    from controlmill.cli.survey import IMAGE, SOURCE, ranges

    lines = []
    for layer in found.layers:
        again = _AGAIN.get(layer.name, f"annotate --annotators {_annotator(layer)}")
        if layer.missing_shards:
            lines.append(f"{layer.name}: missing shards: {ranges(layer.missing_shards)}; run {again} again")
        if layer.stale_shards:
            lines.append(
                f"{layer.name}: shards of images that have changed: {ranges(layer.stale_shards)}; run {again} again"
            )
        # each shard of a source has its own: what its rows are
        if len(layer.fingerprints) > 1 and layer.name != SOURCE:
            lines.append(f"{layer.name}: its shards were made in {len(layer.fingerprints)} ways; run {again} again")
    if found.num_planned_shards and IMAGE not in [layer.name for layer in found.layers]:
        lines.append("image: no shard is committed; run the same build again")
    return lines


def _failures(found: "Survey") -> Table:
    table = _table(("\nfailed", True), ("\nof rows", True), ("\nreason", False), ("\n", False))
    num_rows = sum(layer.num_rows for layer in found.layers if layer.name == "image") + found.reasons.total()
    for reason, num in found.reasons.most_common():
        meaning = MEANINGS.get(Reason(reason), "") if reason in set(Reason) else ""
        table.add_row(f"{num:,}", f"{num / num_rows:.1%}", reason, Text(meaning, style="dim"))
    return table


def _counts(title: str, counts: dict[str, int]) -> Table:
    table = _table(("\nrows", True), (f"\n{title}", False))
    for name, num in sorted(counts.items(), key=lambda item: -item[1]):
        table.add_row(f"{num:,}", Text(name))
    return table


def _size(num_bytes: int) -> str:
    size = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def run(dataset: str, contact_sheet: Path | None, num_rows: int, *, as_json: bool, verify: bool = False) -> None:
    """Print what is in the dataset, draw its contact sheet and verify its files where that is asked for.

    Raises:
        CorruptShardError: a file is not what its commit record says.
    """
    from controlmill.cli.survey import survey
    from controlmill.cli.verification import refuse, verify_all
    from storage.dataset import Dataset

    opened = Dataset.open(dataset)
    found = survey(opened)
    num_bytes = sum(layer.num_bytes for layer in found.layers)
    problems = verify_all(opened, num_bytes) if verify else []
    if as_json:
        verified = {"problems": [str(problem) for problem in problems]} if verify else {}
        click.echo(json.dumps({**found.to_json(), **verified}, indent=2))
    else:
        print_survey(found, Console(file=sys.stdout))
        for problem in problems:
            click.echo(str(problem))
        if verify and not problems:
            num_shards = sum(layer.num_shards for layer in found.layers)
            click.echo(f"verified: {num_shards:,} files, {_size(num_bytes)}, are what their commit records say")
    if contact_sheet is not None:
        from tasks.contact_sheet import write_contact_sheet

        write_contact_sheet(opened, contact_sheet, num_rows=num_rows)
        click.echo(f"contact sheet: {contact_sheet}", err=True)
    refuse(opened, problems)


def _start(words: tuple[str, ...], contact_sheet: str | None, num_rows: int, *, as_json: bool, verify: bool) -> None:
    if len(words) != 1:
        raise ConfigError(f"DATASET: give one dataset, not {len(words)}")
    run(words[0], Path(contact_sheet) if contact_sheet else None, num_rows, as_json=as_json, verify=verify)


command = click.Command(
    "inspect",
    params=[
        click.Argument(["words"], nargs=-1, metavar="DATASET"),
        click.Option(["--json", "as_json"], is_flag=True, help="Print it as JSON."),
        click.Option(
            ["--verify"], is_flag=True, help="Read every file and compare it with its commit record; takes long."
        ),
        click.Option(["--contact-sheet"], metavar="FILE.png", help="Draw images beside their maps into this file."),
        click.Option(
            ["--num-rows"], type=click.IntRange(1, 1000), default=8, help="Rows on the contact sheet.  [default: 8]"
        ),
        *(option for option in general_options() if option.name != "log_format"),
    ],
    callback=_start,
    context_settings=CONTEXT_SETTINGS,
    no_args_is_help=True,
    help="""Show what is in a dataset: layers, rows, sizes, fingerprints, failures, and what is incomplete.

    \b
    controlmill inspect DATASET --contact-sheet out.png
    """,
)
