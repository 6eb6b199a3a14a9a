"""The command line: each command parses, calls the library and prints. Errors are one line.

A command is a function in the module of its name, which is loaded when the command is run. Code that only one
command needs is imported inside it, so that starting is quick.
"""

from __future__ import annotations

from importlib import import_module

import click

from edgert import __version__
from edgert.cli import console
from edgert.suggestion import did_you_mean

# In the order of the help screen.
COMMANDS = (
    "chat",
    "sessions",
    "generate",
    "serve",
    "batch",
    "pull",
    "export",
    "list",
    "info",
    "rm",
    "compare",
    "fit",
    "prepare",
    "tune",
    "bench",
    "devices",
    "doctor",
    "config",
    "completion",
)


class Commands(console.Group):
    """The table of commands as click asks for it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS]  # the command of that name hides `list`

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"edgert.cli.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name in COMMANDS or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        raise click.UsageError(f"no such command '{name}'{did_you_mean(name, COMMANDS)}", ctx)


@click.group("edgert", cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgert")
def main() -> None:
    """Chat with your own distilled student on a small machine.

    A student is a small model that learned from large ones. edgert exports it to a bundle, a folder that runs
    without PyTorch.

    \b
    edgert chat                        talk to the default student
    edgert export CHECKPOINT BUNDLE    make a bundle of your own (on the dev machine)
    edgert chat BUNDLE                 talk to it (anywhere)
    edgert COMMAND --help              what a command does, with examples
    """
    console.occupy_standard_files()
    console.speak_utf8()
    console.warn_in_a_line()
