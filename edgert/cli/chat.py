"""`edgert chat`: a conversation at the terminal, or one piped question."""

from __future__ import annotations

from typing import Any

import click

from edgert.cli import console
from edgert.cli.opening import load_model
from edgert.cli.options import given, kv_option, model_options, sampling_options


@click.command(short_help="Talk to a bundle.")
@click.argument("bundle", required=False)
@click.option("--system", help="System prompt; without it the model's own is used, if it has one.")
@model_options
@kv_option
@sampling_options
def chat(
    *,
    bundle: str | None,
    system: str | None,
    device: str | None,
    context: int | None,
    kv: str | None,
    force: bool,
    **sampling: Any,
) -> None:
    """Talk to a bundle, given as a folder or by the name it was pulled under.

    With a prompt piped in it answers and exits:  echo "Why is the sky blue?" | edgert chat
    """
    from edgert.chat.terminal import Chat

    session = Chat(load_model(bundle, device, context, kv, force=force), given(sampling), system)
    if console.on_terminal():
        session.loop()
    else:
        session.answer(console.piped_prompt())
