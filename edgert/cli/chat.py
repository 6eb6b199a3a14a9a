"""`edgert chat`: a conversation at the terminal, or one piped question."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from edgert.answering.overflow import Overflow
from edgert.cli import completing, console
from edgert.cli.opening import answering, load_model, own_settings
from edgert.cli.options import (
    adapter_option,
    draft_option,
    kv_option,
    model_options,
    sampling_options,
    stats_option,
    switched,
    thinking_option,
)


@click.command(short_help="Talk to a student.")
@click.argument("bundle", required=False, shell_complete=completing.bundles)
@click.option(
    "--system", help="Instructions that the model gets before the conversation. Default: its own, if any."
)
@click.option(
    "--session",
    "name",
    metavar="NAME",
    shell_complete=completing.sessions,
    help="Keep the conversation under this name, after every turn; go on with it if it is there.",
)
@click.option("--continue", "again", is_flag=True, help="Go on with the conversation that was used last.")
@click.option(
    "--no-save",
    is_flag=True,
    help="Keep nothing. Without it, a chat at a terminal is kept under the time that it began; of those the "
    "last 30 stay, or as many as `edgert config set kept_chats` says.",
)
@click.option(
    "--overflow",
    type=click.Choice(get_args(Overflow)),
    default="drop-oldest-turns",
    show_default=True,
    help="Where the context is full: stop with an error; leave the oldest turns out until half is free; or "
    "leave out no more than is needed, each time.",
)
@model_options
@kv_option
@adapter_option
@thinking_option
@stats_option
@draft_option
@sampling_options
def chat(
    *,
    bundle: str | None,
    system: str | None,
    name: str | None,
    again: bool,
    no_save: bool,
    overflow: Overflow,
    device: str | None,
    context: int | None,
    threads: int | None,
    kv: str | None,
    adapter: str | None,
    force: bool,
    thinking: str | None,
    stats: bool,
    **sampling: Any,
) -> None:
    """Talk to a student in the terminal. /help lists what else can be done there.

    \b
    edgert chat                           the default student; offers to get it
    edgert chat qwen3-0.6b                a student that `edgert pull` got
    edgert chat ./my-bundle               your own, made by `edgert export`
    edgert chat --continue                go on with the last conversation
    edgert chat --session garden          give it a name; the same command goes on with it
    echo "Why is the sky blue?" | edgert chat

    BUNDLE is the folder that a student was exported to, or the name that it was pulled by. If a question is
    piped in, chat answers it and ends.

    Options that you leave out, such as --temperature, have the model's own values.
    """
    from edgert.answering.session import Session
    from edgert.chat.terminal import Chat

    folder = _session(bundle, name, again, no_save)
    model = load_model(
        bundle, device, context, kv, threads=threads, force=force, adapter=adapter, draft=sampling["draft"]
    )
    switch, shown = switched(thinking)
    given = {key: value for key, value in {**sampling, "thinking": switch}.items() if value not in (None, ())}
    options = answering(bundle, {**(Session(folder).options if folder else {}), **given})
    conversation = Chat(model, options, system, shown, stats=stats, session=folder, overflow=overflow)
    if console.on_terminal():
        conversation.loop()
    else:
        conversation.answer(console.piped_prompt())


def _session(bundle: str | None, name: str | None, again: bool, no_save: bool) -> Path | None:
    """The folder of the session that is asked for, or of a new one. Raises UsageError."""
    from edgert.chat import sessions

    if (name is not None) + again + no_save > 1:
        raise click.UsageError("--session, --continue and --no-save say different things: choose one")
    if again:
        return sessions.last().folder
    if name is not None:
        return sessions.folder(name)
    if no_save or not console.on_terminal():
        return None
    sessions.thin_out(own_settings(bundle).kept_chats or sessions.UNNAMED)
    return sessions.new()
