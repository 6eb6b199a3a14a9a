"""`edgert chat`: a conversation at the terminal, or one piped question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgert.cli import completing, console
from edgert.cli.opening import answering, load_model
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
@click.option("--continue", "again", is_flag=True, help="Go on with the session that was used last.")
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
    edgert chat --session garden          keep the conversation; the same command goes on with it
    echo "Why is the sky blue?" | edgert chat

    BUNDLE is the folder that a student was exported to, or the name that it was pulled by. If a question is
    piped in, chat answers it and ends.

    Options that you leave out, such as --temperature, have the model's own values.
    """
    from edgert.chat.terminal import Chat

    folder = _session(name, again)
    model = load_model(bundle, device, context, kv, threads=threads, force=force, adapter=adapter)
    switch, shown = switched(thinking)
    options = answering(bundle, {**sampling, "thinking": switch})
    conversation = Chat(model, options, system, shown, stats=stats, session=folder)
    if console.on_terminal():
        conversation.loop()
    else:
        conversation.answer(console.piped_prompt())


def _session(name: str | None, again: bool) -> Path | None:
    """The folder of the session that is asked for. Raises UsageError."""
    from edgert.chat import sessions

    if name is not None and again:
        raise click.UsageError("--session and --continue name a session each: choose one")
    if again:
        return sessions.last().folder
    return None if name is None else sessions.folder(name)
