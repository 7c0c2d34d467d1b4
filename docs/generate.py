"""Write the generated blocks of the documentation from the code; `--check` says which are out of date.

A block stands between `<!-- generated: NAME -->` and `<!-- end of NAME -->`.
Usage: python docs/generate.py [--check]
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click

from controlmill import errors
from controlmill.cli import diffusers as from_diffusers
from controlmill.cli import main
from controlmill.cli.img2dataset import DEFAULTS, MISSING, NOTES
from controlmill.cli.options import default_text, groups_of, is_part
from controlmill.cli.values import shape_of
from controlmill.config import (
    AnnotateConfig,
    BuildAndTrainConfig,
    BuildConfig,
    CaptionConfig,
    EncodeConfig,
    EvaluateConfig,
    Options,
    RetryConfig,
    SampleConfig,
    TrainConfig,
)
from controlmill.reasons import MEANINGS, Reason, img2dataset_status
from tasks.annotators import registry

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(<!-- generated: ([a-z0-9-]+) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)


def table(header: str, rows: Iterator[tuple[str, ...]]) -> str:
    """A Markdown table."""
    num_columns = header.count("|") + 1
    lines = [f"| {header} |", "|" + " --- |" * num_columns]
    return "\n".join(lines + [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows])


def options() -> str:
    """Every option of every command, by group."""
    commands: dict[str, type[Options]] = {
        "build": BuildConfig,
        "annotate": AnnotateConfig,
        "caption": CaptionConfig,
        "encode": EncodeConfig,
        "retry": RetryConfig,
        "train": TrainConfig,
        "build-and-train": BuildAndTrainConfig,
        "sample": SampleConfig,
        "evaluate": EvaluateConfig,
    }
    groups: dict[str, tuple[type[Options], list[str]]] = {}
    for model in commands.values():
        for name, fields in groups_of(model).items():
            groups.setdefault(name, (model, fields))
    parts = []
    for name, (model, fields) in groups.items():
        users = ", ".join(f"`{command}`" for command, other in commands.items() if name in groups_of(other))
        rows = (
            (f"`{field}`", type_text(model, field), default(model, field), meaning(model, field)) for field in fields
        )
        parts.append(f"## {name}\n\nOf {users}.\n\n{table('option | values | default | meaning', rows)}\n")
    return "\n".join(parts).rstrip()


def type_text(model: type[Options], field: str) -> str:
    """What may be written as the value of a field."""
    if is_part(model, field):
        return f"options of `{field}`"
    shape = shape_of(model.model_fields[field].annotation)
    if shape.kind == "flag":
        return "true, false"
    if shape.choices and shape.metavar.startswith(("[", "NAME")):
        return ", ".join(f"`{choice}`" for choice in shape.choices)
    return shape.metavar.lower()


def default(model: type[Options], field: str) -> str:
    """The default of a field."""
    text = default_text(model, field)
    return text if text in ("required", "none") else f"`{text}`"


def meaning(model: type[Options], field: str) -> str:
    """The description of a field, on one line."""
    return " ".join((model.model_fields[field].description or "").split())


def img2dataset() -> str:
    """Every option of img2dataset 1.47.0, and ours."""
    rows = []
    for name, theirs in DEFAULTS.items():
        shown = theirs if theirs == "required" else f"`{','.join(theirs) if isinstance(theirs, list) else theirs}`"
        if name in MISSING:
            rows.append((f"`{name}`", shown, "no such option", MISSING[name].advice))
        else:
            rows.append((f"`{name}`", shown, default(BuildConfig, name), NOTES.get(name, "the same")))
    return table("option | img2dataset's default | ours | what differs", iter(rows))


def diffusers() -> str:
    """Every option of diffusers' train_controlnet.py, and ours."""
    rows = []
    for name, theirs in from_diffusers.DEFAULTS.items():
        shown = {None: "none", "required": "required"}.get(theirs, f"`{theirs}`")
        if name in from_diffusers.MISSING:
            rows.append((f"`{name}`", shown, "no such option", from_diffusers.MISSING[name].advice))
        else:
            ours = from_diffusers.PEER.renamed.get(name, name)
            rows.append((f"`{name}`", shown, default(TrainConfig, ours), from_diffusers.NOTES.get(name, "the same")))
    return table("option | diffusers' default | ours | what differs", iter(rows))


def annotators() -> str:
    """Every annotator that comes with controlmill, and its options."""
    parts = []
    for name in registry.names():
        kind = registry.find(name)
        if not kind.__module__.startswith("tasks.") or name in registry.PRESETS:
            continue
        model = kind.options_model
        rows = ((f"`{field}`", default(model, field), meaning(model, field)) for field in model.model_fields)
        columns = ", ".join(f"`{column.name}`" for column in kind.columns())
        weights = ", ".join(f"`{file.filename}` of {file.repository}" for file in kind.weights)
        parts.append(
            f"## {name}\n\n{inspect.getdoc(kind)}\n\n{inspect.getdoc(model)}\n\n"
            f"{table('option | default | meaning', rows)}\n\nColumns: {columns}."
            + (f" Weights: {weights}." if weights else "")
        )
    rows = ((f"`{name}`", f"`{of}`", preset_text(preset)) for name, (of, preset) in registry.PRESETS.items())
    parts.append(f"## Other names\n\n{table('name | annotator | with', rows)}")
    return "\n\n".join(parts)


def preset_text(preset: dict[str, object]) -> str:
    """Options that a name stands for."""
    return ", ".join(f"`{option}={str(value).lower()}`" for option, value in preset.items()) or "nothing else"


def reasons() -> str:
    """Every reason of a failed row."""
    rows = ((f"`{reason.value}`", MEANINGS[reason], f"`{img2dataset_status(reason)}`") for reason in Reason)
    return table("reason | meaning | img2dataset's `status`", rows)


def exit_codes() -> str:
    """Every error of the command line."""
    kinds = [
        kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.ControlmillError)
    ]
    rows = ((f"`{kind.__name__}`", str(kind.exit_code), inspect.getdoc(kind) or "") for kind in kinds[1:])
    return table("error | exit code | meaning", rows)


def commands() -> str:
    """The help of the command line."""
    context = click.Context(
        main.group, info_name="controlmill", **{**main.group.context_settings, "terminal_width": 100}
    )
    return f"```text\n$ controlmill --help\n{main.group.get_help(context)}\n```"


def study(section: str) -> str:
    """A section of the newest result of benchmarks/convergence_study.py."""
    files = sorted((ROOT / "benchmarks" / "results").glob("convergence_study_*.md"), key=lambda path: path.name[-13:])
    if not files:
        return "Not measured yet: `python benchmarks/convergence_study.py`."
    _, _, after = files[-1].read_text(encoding="utf-8").partition(f"\n## {section}\n")
    return f"{after.partition(f'{chr(10)}## ')[0].strip()}\n\n(`{files[-1].relative_to(ROOT)}`)"


BLOCKS: dict[str, Callable[[], str]] = {
    "annotators": annotators,
    "commands": commands,
    "convergence-reached": partial(study, "What was to be reached"),
    "convergence-sooner": partial(study, "Converge sooner"),
    "diffusers": diffusers,
    "exit-codes": exit_codes,
    "img2dataset": img2dataset,
    "options": options,
    "reasons": reasons,
}


def generated(text: str) -> str:
    """The text of a page with its blocks written anew."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{BLOCKS[found[2]]()}\n\n{found[3]}", text)


def run(*, check: bool) -> int:
    """Write all pages, or with `check` only name those that would change; the exit code."""
    stale = []
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = generated(before)
        if after == before:
            continue
        stale.append(page.relative_to(ROOT))
        if not check:
            page.write_text(after, encoding="utf-8")
    for page in stale:
        print(f"{page}: {'out of date; run python docs/generate.py' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(run(check="--check" in sys.argv[1:]))
