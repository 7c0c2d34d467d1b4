"""`controlmill submit`: a command on a Ray cluster, its options checked here before anything is sent."""

import copy
import importlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from controlmill.cli.following import ADDRESS_HELP, follow
from controlmill.cli.options import CONTEXT_SETTINGS
from controlmill.cli.settings import ConfigCommand
from controlmill.logs import LogFormat

COMMANDS = ("build", "annotate", "caption", "encode", "retry", "train")
"""Commands that run on Ray."""


class SubmitGroup(click.Group):
    """The commands that run on Ray, each with its own options and those of a job."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 click's signature
        """The names, in the order of a dataset's life."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 click's signature
        """The twin of `controlmill <name>` that submits it."""
        return submitting(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 click's signature
        """List the commands without importing them."""
        from controlmill.cli.main import COMMANDS as SUMMARIES

        with formatter.section("Commands"):
            formatter.write_dl([(name, SUMMARIES[name]) for name in COMMANDS])


def submitting(name: str) -> click.Command:
    """The twin of a command that submits it instead of running it."""
    original = importlib.import_module(f"controlmill.cli.{name}").command
    assert isinstance(original, ConfigCommand)  # noqa: S101  all of COMMANDS are
    twin = copy.copy(original)
    twin.params = [*original.params, *_job_options()]

    def submit(words: Sequence[str], log_format: LogFormat, **given: Any) -> None:
        job = {option.name: given.pop(option.name or "") for option in _job_options()}
        _submit(original, words, given, log_format, job)

    twin.callback = submit
    return twin


def _job_options() -> list[click.Option]:
    return [
        click.Option(["--address"], help=ADDRESS_HELP),
        click.Option(
            ["--env"],
            multiple=True,
            metavar="NAME",
            help="Environment variable to take along, by its name; repeatable. Ray shows its value to its users.",
        ),
        click.Option(
            ["--with-code"], is_flag=True, help="Send controlmill along; its requirements have to be on every node."
        ),
        click.Option(["--no-wait"], is_flag=True, help="Return once the job is submitted, instead of following it."),
        click.Option(["--submission-id"], metavar="ID", help="Id of the job, by default one that Ray makes."),
    ]


def _submit(
    command: ConfigCommand[Any],
    words: Sequence[str],
    given: Mapping[str, object],
    log_format: LogFormat,
    job: Mapping[str, Any],
) -> None:
    config = command.configuration(words, given)
    from flows.cluster_jobs import Cluster, address_of, forwarded
    from flows.job_folder import described, write_job_folder

    address, environment = address_of(job["address"]), forwarded(job["env"])
    name = str(command.name)
    with TemporaryDirectory(prefix="controlmill-job-") as text:
        folder = Path(text)
        note = write_job_folder(folder, name, config, with_code=job["with_code"])
        if note is not None:
            click.echo(f"note: {note}", err=True)
        cluster = Cluster(address)
        log_words = [] if log_format == "text" else ["--log-format", log_format]
        job_id = cluster.submit(
            shlex.join([name, f"{name}.yaml", *log_words]),
            folder,
            environment=environment,
            what=described(config),
            submission_id=job["submission_id"],
        )
    click.echo(f"job {job_id} is submitted to {cluster.address}", err=True)
    if job["no_wait"]:
        click.echo(job_id)
        return
    follow(cluster, job_id)


command = SubmitGroup(
    "submit",
    context_settings=CONTEXT_SETTINGS,
    no_args_is_help=True,
    help="""Run a command on a Ray cluster, through its Jobs API, and follow it.

    The options are those of the command. Ctrl-C asks whether to stop the job; the exit code is the job's.

    \b
    controlmill submit build s3.yaml --address http://head:8265
    controlmill submit train s3://bucket/dataset train.yaml --address http://head:8265 --no-wait
    """,
)
