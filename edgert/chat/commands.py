"""Commands: what the chat does besides answering. They start with a slash."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import click

from edgert.answering.conversation import Content, Conversation
from edgert.answering.request import Options
from edgert.chat import clipboard, setting
from edgert.chat.notices import wrapped
from edgert.errors import EdgertError, UsageError
from edgert.model import Model
from edgert.suggestion import did_you_mean
from edgert.text.thinking import without_thought

HELP = """\
/help               this list
/clear              forget the conversation, keep the system prompt
/system [TEXT]      show or set the system prompt, and start over
/set [NAME VALUE]   show or change a setting, such as temperature or max_tokens
/retry              answer the last question again
/edit [TEXT]        write a question in $EDITOR
/file PATH          put a text file before the next question
/copy               copy the last answer to the clipboard
/save FILE          write the conversation to a JSON file
/load FILE          go on with a saved conversation
/exit               leave (or Ctrl-D)
Ctrl-C              stop an answer; the conversation stays
\\ at a line's end   begin another line; or type \"\"\" before and after several
Pasted lines are one question."""
TAKE_FILES = ("/file", "/load", "/save")
LEAVING = ("exit", "quit", "bye")


class Commands:
    """The slash commands of one conversation. `answer` asks a question and shows the answer."""

    def __init__(self, model: Model, conversation: Conversation, answer: Callable[[Content], object]) -> None:
        self._model = model
        self._conversation = conversation
        self._answer = answer
        self.files: list[str] = []  # texts that go before the next question
        self._table: dict[str, Callable[[str], None]] = {
            "help": lambda _: click.echo(wrapped(HELP, sys.stdout, " " * 20)),
            "clear": self._clear,
            "system": self._system,
            "set": self._set,
            "retry": self._retry,
            "edit": self._edit,
            "file": self._file,
            "copy": self._copy,
            "save": self._save,
            "load": self.load,
        }

    @property
    def names(self) -> tuple[str, ...]:
        """All commands, without the slash."""
        return (*self._table, LEAVING[0])

    def is_command(self, question: str) -> bool:
        """Whether it is meant as a command: text of several lines may begin with a slash, as a path does."""
        name = question[1:].split(maxsplit=1)[:1]
        known = bool(name) and name[0].lower() in self._table
        return question.startswith("/") and (known or "\n" not in question.strip())

    def run(self, line: str) -> None:
        """Do what a line says. Raises EdgertError."""
        name, _, argument = line[1:].strip().partition(" ")
        if name.lower() not in self._table:
            meant = did_you_mean(f"/{name}", [f"/{known}" for known in self.names]) or ":"
            raise UsageError(
                f"unknown command '/{name}'{meant} /help lists them; start with a space to ask it"
            )
        self._table[name.lower()](argument.strip())

    def with_files(self, question: str) -> str:
        """A question below the texts that `/file` has read."""
        return "\n\n".join([*self.files, question])

    def _edit(self, text: str) -> None:
        try:
            question = (click.edit(text, extension=".md") or "").strip()
        except click.ClickException as error:
            raise UsageError(f"/edit: {error.message}; set the variable EDITOR") from error
        if not question:
            raise UsageError("/edit: nothing was saved, so nothing is asked")
        click.echo(question)
        self._answer(self.with_files(question))
        self.files.clear()

    def _file(self, name: str) -> None:
        path = _path(name, "/file")
        try:
            text = path.read_text("utf-8-sig").strip()
        except OSError as error:
            raise UsageError(f"/file: can't read {path}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"/file: {path} is not UTF-8 text (byte {error.start})") from error
        if not text:
            raise UsageError(f"/file: {path} is empty")
        self.files.append(text)
        click.echo(f"{path} goes before the next question ({len(text)} characters).")

    def _copy(self, _: str) -> None:
        turns = self._conversation.turns
        if not turns or turns[-1]["role"] != "assistant":
            raise UsageError("/copy: there is no answer yet")
        clipboard.copy(self._said(turns[-1]))
        click.echo("Copied, if the terminal lets programs do so.")

    def _retry(self, _: str) -> None:
        before = self._conversation.messages
        try:
            self._answer(self._conversation.take_back())
        except EdgertError:
            self._conversation.restore(before)
            raise

    def _clear(self, _: str) -> None:
        self._conversation.clear()
        self.files.clear()
        click.echo("The conversation is forgotten.")

    def _system(self, text: str) -> None:
        if not text:
            click.echo(
                self._conversation.system or "No system prompt: the model's own is used, if it has one."
            )
            return
        self._conversation.clear()
        self._conversation.system = text
        click.echo("The system prompt is set; the conversation starts over.")

    def _set(self, argument: str) -> None:
        """`/set`, `/set temperature`, `/set temperature 0.6`, `/set stop ['END']`, `/set thinking off`."""
        name, _, typed = argument.partition(" ")
        settings = setting.values(self._model.request(**self._conversation.options))
        if not name:
            click.echo("\n".join(f"{key} {value}" for key, value in settings.items()))
            return
        setting.check_name(name)
        if not typed.strip():
            click.echo(f"{name} {settings.get(name, self._conversation.options.get(name))}")
            return
        value = setting.value(name, typed.strip())
        changed = cast(Options, {**self._conversation.options, name: value})
        self._model.request(**changed)  # refuses what can't be
        self._conversation.options = changed
        click.echo(f"{name} is {value} from the next answer on.")

    def _save(self, name: str) -> None:
        path = _path(name, "/save")
        self._conversation.save(path)
        click.echo(f"Saved to {path}.")

    def load(self, name: str) -> None:
        """Go on with a saved conversation, and show it."""
        self._conversation.load(_path(name, "/load"))
        self.show()

    def show(self) -> None:
        """What was said so far, without thoughts."""
        for turn in self._conversation.turns:
            click.echo(f"{'> ' if turn['role'] == 'user' else ''}{self._said(turn)}")

    def _said(self, turn: Mapping[str, Any]) -> str:
        """A turn as people read it: an answer without the thought."""
        thinks = self._model.template is not None and self._model.template.thinks
        said = str(turn["content"])
        return without_thought(said) if thinks and turn["role"] == "assistant" else said


def _path(name: str, command: str) -> Path:
    if not name:
        raise UsageError(f"{command} needs a file name")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:  # no such user
        raise UsageError(f"{command} {name}: {error}") from error
