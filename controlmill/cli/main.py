"""The entry of the command line: finds the command, and turns errors into one line and an exit code."""

import importlib
import os
import signal
import sys
from collections.abc import Sequence

import click

from controlmill import __version__
from controlmill.errors import ControlmillError, InterruptedRunError

COMMANDS = {
    "build": "Pull images from a list of URLs and annotate them, into a dataset of Parquet layers.",
    "annotate": "Add layers to a dataset.",
    "caption": "Describe the images of a dataset in words.",
    "encode": "Encode images and captions with the frozen parts of a base, once for all epochs.",
    "retry": "Pull failed rows of a dataset again.",
    "inspect": "Show what is in a dataset: layers, failures, what is incomplete.",
    "preflight": "Check data, hints, gradients and memory before training.",
    "train": "Train a ControlNet on the layers of a dataset.",
    "build-and-train": "Build a dataset and train a ControlNet on it, in one run.",
    "convergence": "Say when a ControlNet suddenly began to follow its condition, from the log of its probe.",
    "report": "Write what happened in a training run as one HTML page.",
    "sample": "Generate images with a ControlNet.",
    "evaluate": "Measure how well generated images obey their hints, read back by the dataset's annotator.",
    "export-model": "Write a trained ControlNet for other programs.",
    "submit": "Run a command on a Ray cluster.",
    "jobs": "List, follow and stop what runs on a Ray cluster.",
    "weights": "List, fetch and verify weights of annotators and captioners.",
    "env": "Make and check isolated Python environments: for --captioner lavis.",
    "doctor": "Check this machine: versions, GPU, Ray, Prefect, storage, weights.",
}


class LazyGroup(click.Group):
    """A group that imports the module of a command when that command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 click's signature
        """The names, in the order of a dataset's life."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 click's signature
        """Import `controlmill.cli.<name>` and take its `command`."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"controlmill.cli.{cmd_name.replace('-', '_')}").command
        if not isinstance(command, click.Command):
            raise TypeError(f"controlmill.cli.{cmd_name}.command is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 click's signature
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Options of a command: controlmill COMMAND --help",
)
@click.version_option(__version__, message="controlmill %(version)s")
def group() -> None:
    """From a list of image URLs to a trained ControlNet."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; what the user got wrong is said in one line on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with_traceback = "--traceback" in words or os.environ.get("CONTROLMILL_TRACEBACK", "0") not in ("", "0")
    try:
        code = group.main(args=words, prog_name="controlmill", standalone_mode=False)
        sys.stdout.flush()
    except (ControlmillError, click.ClickException, click.Abort, KeyboardInterrupt, BrokenPipeError) as error:
        if arguments is None and isinstance(error, InterruptedRunError | KeyboardInterrupt):
            # everything is ended: an impatient Ctrl-C on the way out is no traceback of the interpreter's exit
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if with_traceback:
            raise
        return _explain(error)
    return code if isinstance(code, int) else 0


def _explain(error: BaseException) -> int:
    if isinstance(error, BrokenPipeError):
        # `controlmill inspect … | head`: the interpreter flushes stdout once more on its way out
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    if isinstance(error, click.ClickException):
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "controlmill"
        message, code = f"{error.format_message()} See {command} --help.", error.exit_code
    elif isinstance(error, ControlmillError):
        message, code = str(error), error.exit_code
    else:
        message, code = "interrupted", InterruptedRunError.exit_code
    click.echo(f"error: {message}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
