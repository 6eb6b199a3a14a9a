"""Chat: the conversation at the terminal. Commands start with a slash, everything else is a question."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

import click

from edgert.answering.conversation import Content
from edgert.answering.reply import Chunk, Timings, cut_notice
from edgert.answering.request import Options
from edgert.chat.printing import Printer, Shown
from edgert.errors import EdgertError, PromptTooLong, UsageError
from edgert.model import Model
from edgert.text.thinking import without_thought

HELP = """\
/help               this list
/clear              forget the conversation, keep the system prompt
/system [TEXT]      show or set the system prompt; the conversation starts over
/set [NAME VALUE]   show or change a setting: temperature, top_p, top_k, max_tokens, seed, …
/retry              answer the last question again
/save FILE          write the conversation to a JSON file
/load FILE          go on with a saved conversation
/exit               leave (or Ctrl-D)
Ctrl-C stops an answer and keeps the conversation. \"\"\" starts and ends a question of several lines."""


class Chat:
    """One user, one model, one conversation."""

    def __init__(
        self, model: Model, options: Options, system: str | None = None, thinking: Shown | None = None
    ) -> None:
        self._model = model
        self._thinking = thinking
        own: Options = {"stop_loops": True, **options}
        self._conversation = model.conversation(system, **own)
        self._commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: click.echo(HELP),
            "clear": self._clear,
            "system": self._system,
            "set": self._set,
            "retry": self._retry,
            "save": self._save,
            "load": self._load,
        }

    def loop(self) -> None:
        """Read, answer, repeat, until /exit or Ctrl-D."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - line editing and history, where the system has it
        manifest = self._model.bundle.manifest
        threads, context = self._model.threads or "default", self._model.context
        click.echo(
            f"{manifest.name} · {manifest.quantization.scheme} · {self._model.profile.name}, "
            f"{threads} threads · context {context} · /help lists the commands"
        )
        while (line := _read_question()) is not None:
            if line.strip() in ("/exit", "/quit", "/bye"):
                return
            try:
                self._handle(line)
            except EdgertError as error:
                click.echo(_advised(error), err=True)

    def answer(self, question: Content) -> Timings | None:
        """Ask and stream the answer to the terminal; None if it was stopped before its first token."""
        stream = self._conversation.send(question)
        printer = Printer(self._thinking)
        chunk: Chunk | None = None
        try:
            for chunk in stream:
                printer.show(chunk)
        except KeyboardInterrupt:
            stream.close()
            printer.end("  (stopped)")
            return chunk.timings if chunk else None
        printer.end()
        if notice := cut_notice(stream.reply, self._model.context):
            click.echo(notice, err=True)
        return stream.reply.timings

    def _handle(self, line: str) -> None:
        if not line.strip():
            return
        if not line.startswith("/"):
            self.answer(line)
            return
        name, _, argument = line[1:].strip().partition(" ")
        if name.lower() not in self._commands:
            raise UsageError(f"unknown command '/{name}': /help lists them; start with a space to ask it")
        self._commands[name.lower()](argument.strip())

    def _retry(self, _: str) -> None:
        before = self._conversation.messages
        try:
            self.answer(self._conversation.take_back())
        except EdgertError:
            self._conversation.restore(before)
            raise

    def _clear(self, _: str) -> None:
        self._conversation.clear()
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
        """Values are read as Python literals, so `/set seed 7`, `/set logit_bias {5: -1}` and `None` work."""
        name, _, text = argument.partition(" ")
        if not name:
            request = self._model.request(**self._conversation.options)
            settings = {
                "max_tokens": request.max_tokens,
                "stop": list(request.stop),
                "stop_loops": request.stop_loops,
                "thinking": request.thinking,
                "thinking_budget": request.thinking_budget,
                **vars(request.sampling),
            }
            click.echo("\n".join(f"{key} {value}" for key, value in settings.items()))
            return
        try:
            value = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise UsageError(f"/set {name} needs a Python value, such as 0.6, ['END'] or None") from error
        changed = cast(Options, {**self._conversation.options, name: value})
        self._model.request(**changed)  # refuses what can't be
        self._conversation.options = changed
        click.echo(f"{name} is {value} from the next answer on.")

    def _save(self, name: str) -> None:
        path = _path(name, "/save")
        self._conversation.save(path)
        click.echo(f"Saved to {path}.")

    def _load(self, name: str) -> None:
        self._conversation.load(_path(name, "/load"))
        thinks = self._model.template is not None and self._model.template.thinks
        for turn in self._conversation.turns:
            said = turn["content"]
            if thinks and turn["role"] == "assistant" and isinstance(said, str):
                said = without_thought(said)
            click.echo(f"{'> ' if turn['role'] == 'user' else ''}{said}")


def _read_question() -> str | None:
    """A line, or the lines between triple quotes; None at the end of input. Ctrl-C clears the line."""
    while True:
        try:
            line = input(">>> ")
            if not line.startswith('"""'):
                return line
            lines = [line[3:]]
            while not lines[-1].endswith('"""'):
                lines.append(input("... "))
            return "\n".join(lines)[:-3]
        except KeyboardInterrupt:
            click.echo("\n(Ctrl-D or /exit leaves)")
        except EOFError:
            click.echo()
            return None


def _advised(error: EdgertError) -> str:
    """What is said of an error: a conversation that is too long has other ways out here than in Python."""
    if isinstance(error, PromptTooLong):
        return f"{error.facts}: shorten it, start over with /clear, or start the chat with a larger --context"
    return str(error)


def _path(name: str, command: str) -> Path:
    if not name:
        raise UsageError(f"{command} needs a file name")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:  # no such user
        raise UsageError(f"{command} {name}: {error}") from error
