"""`edgert config`: defaults of your own, kept in config.toml."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgert import home
from edgert.cli import completing
from edgert.errors import UsageError
from edgert.suggestion import did_you_mean

if TYPE_CHECKING:
    from edgert.settings import Config

Command = TypeVar("Command", bound=Callable[..., Any])


def key_and_bundle(command: Command) -> Command:
    """What each of the three commands takes."""
    option = click.option(
        "--bundle",
        metavar="NAME",
        shell_complete=completing.bundles,
        help="For this bundle alone: a name of `edgert list`, or that of its folder.",
    )
    return click.argument("key", callback=_known, shell_complete=completing.keys)(option(command))


def _known(_ctx: click.Context, _param: click.Parameter, key: str) -> str:
    """A key as the file has it. Raises UsageError."""
    from edgert.settings import KEYS

    name = key.replace("-", "_").lower()
    if name not in KEYS:
        raise UsageError(f"no such key '{key}'{did_you_mean(name, KEYS) or ':'} there are {', '.join(KEYS)}")
    return name


@click.group(short_help="Set defaults of your own.", invoke_without_command=True)
@click.pass_context
def config(context: click.Context) -> None:
    """Show or change your own defaults, for all bundles or for single ones.

    \b
    edgert config                         what is set, and in which file
    edgert config set context 4096        the most tokens (pieces of words)
    edgert config set temperature 0.6 --bundle r1-distill-qwen-1.5b
    edgert config get temperature
    edgert config unset context

    Keys are device, context and threads, and how to answer: max_tokens, temperature, top_k, top_p, min_p,
    repetition_penalty, stop_loops. They stand for the options of these names; `edgert chat --help` explains
    them.

    An option on the command line comes first, then a variable such as EDGERT_CONTEXT, then what is set for
    the bundle, then what is set for all, and last the bundle's own default. `edgert.load` in Python reads
    none of it.

    The file is config.toml in your config folder, or EDGERT_CONFIG; you may edit it yourself.
    """
    if context.invoked_subcommand is None:
        from edgert import settings

        click.echo(_shown(settings.read()))


@config.command("get", short_help="Show what a key is set to.")
@key_and_bundle
def get(key: str, bundle: str | None) -> None:
    """Show what KEY is set to.

    \b
    edgert config get context
    edgert config get temperature --bundle qwen3-0.6b    its own, or else that for all
    """
    from edgert import settings
    from edgert.toml_text import literal

    found = settings.read()
    values = (found.of(home.bundle_name(bundle)) if bundle else found.everywhere).values
    if key not in values:
        raise UsageError(f"{key} is not set in {found.path}")
    value = values[key]
    click.echo(value if isinstance(value, str) else literal(value))


@config.command("set", short_help="Set a key.")
@key_and_bundle
@click.argument("value")
def set_key(key: str, value: str, bundle: str | None) -> None:
    """Set KEY to VALUE. Comments in the file stay.

    \b
    edgert config set device raspberry-pi-5
    edgert config set temperature 0.6 --bundle r1-distill-qwen-1.5b
    """
    from edgert import settings

    wanted = settings.value_of(key, value)
    settings.read().with_value(key, wanted, home.bundle_name(bundle) if bundle else None).save()


@config.command("unset", short_help="Take a key out.")
@key_and_bundle
def unset(key: str, bundle: str | None) -> None:
    """Take KEY out, so that the next place to look holds.

    \b
    edgert config unset context
    """
    from edgert import settings

    found, name = settings.read(), home.bundle_name(bundle) if bundle else None
    table = found.everywhere if name is None else found.bundles.get(name, settings.Settings())
    if key not in table.values:
        raise UsageError(f"{key} is not set{f' for {name}' if name else ''} in {found.path}")
    found.with_value(key, None, name).save()


def _shown(found: Config) -> str:
    tables = {"all bundles": found.everywhere, **found.bundles}
    rows = [f"for {which}: {of}" for which, of in tables.items() if of.values]
    return "\n".join([str(found.path), *(rows or ["nothing is set; see: edgert config --help"])])
