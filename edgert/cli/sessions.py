"""`edgert sessions`: conversations that the chat has kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from edgert.cli import completing

if TYPE_CHECKING:
    from edgert.answering.session import Session


@click.group(short_help="List, show and remove kept conversations.", invoke_without_command=True)
@click.pass_context
def sessions(ctx: click.Context) -> None:
    """Conversations that `edgert chat --session NAME` has kept.

    \b
    edgert sessions                       list them, the last used first
    edgert sessions show NAME             what was said
    edgert sessions export NAME           the same as JSON, as messages of the OpenAI API
    edgert sessions rm NAME...            remove them
    edgert chat --session NAME            go on with one
    edgert chat --continue                go on with the last one

    They lie in the user's state folder, or in EDGERT_STATE. What makes going on quick, keys and values, takes
    most of their size.
    """
    from edgert.chat import sessions as kept

    if ctx.invoked_subcommand is not None:
        return
    found = kept.kept()
    if not found:
        click.echo("No session is kept yet; begin one with: edgert chat --session NAME")
        return
    width = max(len(session.name) for session in found)
    for session in found:
        turns = sum(message["role"] == "user" for message in session.open().messages)
        questions, size = "1 question" if turns == 1 else f"{turns} questions", session.size / 1e6
        click.echo(f"{session.name:{width}}  {session.used:%Y-%m-%d %H:%M}  {questions}  {size:,.1f} MB")


@sessions.command(short_help="Print what was said.")
@click.argument("name", shell_complete=completing.sessions)
def show(name: str) -> None:
    """Print what was said in a session, with the thoughts of a student that thinks.

    Before an answer stand the options that it was made with, where they changed.
    """
    from edgert.chat.sessions import named

    click.echo("\n".join(_lines(named(name).open())))


@sessions.command(short_help="Print a session as JSON.")
@click.argument("name", shell_complete=completing.sessions)
def export(name: str) -> None:
    """Print a session as JSON: its messages, which /load in the chat and the OpenAI API take, and the options
    of the conversation and of each answer.
    """
    from edgert.chat.sessions import named

    session = named(name).open()
    table = {"messages": session.messages, **(session.how.to_json() if session.how else {})}
    click.echo(json.dumps(table, indent=2, ensure_ascii=False))


@sessions.command(short_help="Remove sessions.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=completing.sessions)
def rm(names: tuple[str, ...]) -> None:
    """Remove sessions, text and all."""
    from edgert.chat.sessions import named

    for session in [named(name) for name in names]:
        session.remove()
        click.echo(f"{session.name}: removed")


def _lines(session: Session) -> Iterator[str]:
    answers = session.how.answers if session.how else {}
    last: Mapping[str, Any] = {}
    for place, message in enumerate(session.messages):
        if (made := answers.get(place, last)) != last:
            last = made
            yield f"({', '.join(f'{key} {value}' for key, value in made.items())})"
        yield f"{'> ' if message['role'] == 'user' else ''}{message['content']}"
