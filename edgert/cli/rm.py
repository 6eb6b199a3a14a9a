"""`edgert rm`: a student off this disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgert import home
from edgert.cli import completing, console
from edgert.errors import UsageError
from edgert.suggestion import did_you_mean

if TYPE_CHECKING:
    from edgert.shelf import Kept


@click.command(short_help="Remove a student from this disk.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=completing.kept)
@click.option(
    "--only",
    type=click.Choice(["bundle", "checkpoint"]),
    help="Remove this and keep the other. Default: both.",
)
@click.option("--yes", is_flag=True, help="Remove without asking.")
def rm(names: tuple[str, ...], only: str | None, yes: bool) -> None:
    """Remove a student: its bundle, and the checkpoint that it was made from. Asks first.

    \b
    edgert rm qwen3-0.6b
    edgert rm qwen3-0.6b --only checkpoint    free the space of the download
    edgert rm qwen3-0.6b qwen3-1.7b --yes

    NAME is one that `edgert list` shows. Bundles elsewhere are yours: remove their folders yourself.
    """
    doomed = [kept for name in dict.fromkeys(names) for kept in _named(name, only)]
    if not yes:
        _ask(doomed)
    for kept in doomed:
        size = kept.size
        kept.remove()
        click.echo(f"{kept.folder}: removed, {size / 1e6:,.0f} MB")


def _named(name: str, only: str | None) -> list[Kept]:
    """What is kept under a name. Raises UsageError if that is nothing."""
    from edgert import shelf

    bundles = [] if only == "checkpoint" else shelf.bundles()
    checkpoints = [] if only == "bundle" else shelf.checkpoints()
    found: list[Kept] = [kept for kept in (*bundles, *checkpoints) if kept.name == name]
    if not found:
        meant = did_you_mean(name, [kept.name for kept in (*bundles, *checkpoints)])
        what = f"no {only or 'student'} '{name}' in {home.home()}"
        raise UsageError(f"{what}{meant or '; `edgert list` shows what is'}")
    return found


def _ask(doomed: list[Kept]) -> None:
    """Raises UsageError if the answer is no, or nobody is there to give one."""
    if not console.on_terminal():
        raise UsageError("nobody is there to confirm it: --yes removes without asking")
    for kept in doomed:
        click.echo(f"{kept.folder}: {kept.size / 1e6:,.0f} MB", err=True)
    if not click.confirm("Remove this?", default=False, err=True):
        raise UsageError("nothing was removed")
