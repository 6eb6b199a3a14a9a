"""Editing: questions typed with prompt_toolkit, which the extra [chat] brings.

Tab completes commands, settings and files. Questions are kept from one run to the next.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.shortcuts import CompleteStyle

from edgert import home
from edgert.chat import setting
from edgert.chat.commands import TAKE_FILES
from edgert.chat.input import GOES_ON, MORE, QUOTES


class EditedInput:
    """Questions of one line or several. Enter asks; Esc and Enter, or a backslash and Enter, begin a line."""

    def __init__(self, commands: Sequence[str]) -> None:
        self._session: PromptSession[str] = PromptSession(
            multiline=True,
            history=_history(home.state_folder() / "history"),
            completer=Names(commands),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,  # takes no lines below the prompt
            key_bindings=_keys(),
            prompt_continuation=MORE,
        )

    def read(self, prompt: str) -> str:
        """The next question. Raises EOFError at the end of input, KeyboardInterrupt."""
        question: str = self._session.prompt(prompt)
        if question.startswith(QUOTES) and len(question) >= 2 * len(QUOTES):
            return question.removeprefix(QUOTES).removesuffix(QUOTES)
        return question


class Names(Completer):  # type: ignore[misc,unused-ignore]  # unknown where the extra is missing
    """Completes commands, the settings of /set, and the files of those that take one."""

    def __init__(self, commands: Sequence[str]) -> None:
        self._commands = [f"/{name}" for name in commands]
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Of what stands before the cursor; nothing in a question."""
        typed = document.text_before_cursor
        command, space, argument = typed.partition(" ")
        if not space:
            yield from _beginning(typed, self._commands if typed.startswith("/") else ())
        elif command == "/set":
            yield from _beginning(argument, setting.NAMES)
        elif command in TAKE_FILES:
            yield from self._paths.get_completions(Document(argument), complete_event)


def _beginning(typed: str, names: Iterable[str]) -> Iterable[Completion]:
    return (Completion(name, -len(typed)) for name in names if name.startswith(typed))


def _keys() -> KeyBindings:
    def enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        text = buffer.text
        if buffer.document.text_before_cursor.endswith(GOES_ON):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        elif text.startswith(QUOTES) and (len(text) < 2 * len(QUOTES) or not text.endswith(QUOTES)):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    def another_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    keys = KeyBindings()
    keys.add("enter")(enter)
    keys.add("escape", "enter")(another_line)
    return keys


def _history(path: Path) -> History:
    """The file for the user's eyes only; where it can't be written, a line says so and memory does."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError as error:
        click.echo(f"edgert: warning: questions are not kept: {path}: {error.strerror}", err=True)
        return InMemoryHistory()
    return FileHistory(path)
