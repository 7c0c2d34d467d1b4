"""`controlmill env`: isolated Python environments, for libraries that cannot live beside ours."""

import click

from controlmill.cli.options import CONTEXT_SETTINGS


@click.group(
    "env",
    context_settings=CONTEXT_SETTINGS,
    help="""Make and check isolated Python environments, for libraries whose pins cannot live beside controlmill's.

    \b
    controlmill env create blip-lavis
    """,
)
def command() -> None:
    """Hold the commands."""


@command.command("create")
@click.argument("name")
def create(name: str) -> None:
    """Make the environment NAME, unless it is there as it should be; some minutes, some gigabytes."""
    from tasks import environments

    found = environments.create(name, lambda line: click.echo(line, err=True))
    versions = ", ".join(f"{library} {version}" for library, version in environments.check(name).items())
    click.echo(f"{name} is ready in {found.folder} ({_size(found.num_bytes)}): {versions}")


@command.command("list")
def show() -> None:
    """Show every environment: what it is for, where it is, whether it can be used."""
    from tasks.environments import ENVIRONMENTS, state

    for name in sorted(ENVIRONMENTS):
        found = state(name)
        size = f", {_size(found.num_bytes)}" if found.num_bytes else ""
        click.echo(f"{name}: {found.environment.purpose}")
        click.echo(f"  {found.folder}{size}")
        click.echo(f"  {found.problem or 'ready'}")


@command.command("check")
@click.argument("name")
def check(name: str) -> None:
    """Import what the environment NAME is for, in its own Python."""
    from tasks.environments import check

    versions = check(name)
    click.echo(f"{name} works: " + ", ".join(f"{library} {version}" for library, version in versions.items()))


def _size(num_bytes: int | None) -> str:
    return f"{(num_bytes or 0) / 2**30:.1f} GiB"
