"""The page put together."""

import importlib.metadata
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from controlmill import __version__
from controlmill.cli.page import run_parts
from controlmill.cli.page.dataset_parts import dataset
from controlmill.cli.page.files import read_options
from controlmill.cli.page.html import Column, Html, element, section, table, text
from controlmill.cli.page.style import CSS

if TYPE_CHECKING:
    from training.report import Report

_LIBRARIES = ("torch", "diffusers", "deepspeed", "transformers", "ray", "prefect")


def make_page(address: str, train_data_dir: str | None = None) -> str:
    """The page on a run.

    Args:
        address: its folder, a path or an URI.
        train_data_dir: where its dataset is now; by default where the run found it.

    Raises:
        RunUnusableError: there is no run, or a file of it is broken.
    """
    from storage.filesystem import redact
    from training.local_run import local_run

    with local_run(address) as run:
        options = read_options(run)
        report = _report(run)
        name = redact(address)
        parts = [
            run_parts.head(run, name, options, report),
            *([run_parts.curves(report)] if report is not None else []),
            run_parts.samples(run, report),
            *([run_parts.forecasts(report)] if report is not None else []),
            run_parts.events(run),
            run_parts.earlier_attempt(run),
            dataset(train_data_dir or str(options.get("train_data_dir", "")), options.get("condition", [])),
            run_parts.configuration(options),
            _versions(),
        ]
    title = "controlmill" if report is None else report.title()
    return _document(title, parts)


def _report(run: Path) -> "Report | None":
    from training.probe_log import PROBE_LOG
    from training.report import analyse

    return analyse(run, {}) if (run / PROBE_LOG).is_file() else None


def _versions() -> Html:
    rows = [("controlmill", __version__), ("Python", platform.python_version())]
    rows += [(name, importlib.metadata.version(name)) for name in _LIBRARIES]
    hint = "Of where this page was made; the model card of the run has those it was trained with."
    return section(
        "Versions", element("p", hint, class_="pale"), table([Column("library"), Column("version", "wide")], rows)
    )


def _document(title: str, parts: list[Html]) -> str:
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{CSS}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{element("main", *parts)}</body></html>\n'
