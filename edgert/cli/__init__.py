"""The command line: each command parses, calls the library and prints. Errors are one line.

A module holds a group of commands; what a command alone needs, it imports itself, so that starting is quick.
"""

from __future__ import annotations

import click

from edgert import __version__
from edgert.cli import console
from edgert.cli.answering import chat, generate
from edgert.cli.benching import bench
from edgert.cli.comparing import compare
from edgert.cli.examining import doctor, list_devices, tune
from edgert.cli.exporting import export, pull
from edgert.cli.fitting import fit, prepare
from edgert.cli.inspecting import info


@click.group(cls=console.Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgert")
def main() -> None:
    """Chat with your own distilled student on a small machine.

    \b
    edgert chat                        talk to the default student
    edgert export CHECKPOINT BUNDLE    make an int8 bundle of your own (on the dev machine)
    edgert chat BUNDLE                 talk to it (anywhere)
    """
    console.speak_utf8()
    console.warn_in_a_line()


for command in (chat, generate, compare, export, pull, fit, prepare, tune, bench, doctor, info, list_devices):
    main.add_command(command)
