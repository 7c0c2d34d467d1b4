"""`controlmill report`."""

import click

from controlmill.cli.options import CONTEXT_SETTINGS
from controlmill.cli.settings import general_options
from controlmill.errors import ConfigError


def run(address: str, out: str, train_data_dir: str | None) -> None:
    """Write the page."""
    from controlmill.cli.page.page import make_page
    from storage.filesystem import open_files, redact

    page = make_page(address, train_data_dir)
    files, path = open_files(out)
    files.write(path, page.encode())
    click.echo(f"report: {redact(out)}")


def _start(words: tuple[str, ...], out: str | None, train_data_dir: str | None) -> None:
    if len(words) != 1:
        raise ConfigError(f"RUN: give the folder of one run, not {len(words)}")
    if out is not None and not out.endswith((".html", ".htm")):
        raise ConfigError(f"--out: give a file that ends in .html, not {out!r}")
    run(words[0], out or f"{words[0].rstrip('/')}/report.html", train_data_dir)


command = click.Command(
    "report",
    params=[
        click.Argument(["words"], nargs=-1, metavar="RUN"),
        click.Option(["--out"], metavar="FILE.html", help="Where to write it.  [default: RUN/report.html]"),
        click.Option(
            ["--train-data-dir"], metavar="DATASET", help="Where the dataset is now, if no longer where RUN found it."
        ),
        *(option for option in general_options() if option.name != "log_format"),
    ],
    callback=_start,
    context_settings=CONTEXT_SETTINGS,
    no_args_is_help=True,
    help="""Write what happened in a training run as one HTML page that needs nothing else: verdict, curves, samples,
    forecasts, events, dataset and configuration.

    \b
    controlmill report RUN
    controlmill report RUN --out report.html --train-data-dir DATASET
    """,
)
