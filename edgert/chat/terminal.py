"""Chat: the conversation at the terminal. Commands start with a slash, everything else is a question."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgert.answering.conversation import Content
from edgert.answering.overflow import Overflow
from edgert.answering.reply import Chunk, Timings
from edgert.answering.request import Options
from edgert.chat import notices
from edgert.chat.commands import LEAVING, Commands
from edgert.chat.input import Input, open_input
from edgert.chat.printing import Printer, Shown
from edgert.errors import EdgertError, PromptTooLong
from edgert.model import Model


class Chat:
    """One user, one model, one conversation. `stats` tells after each answer how fast it came; `session` is
    the folder where the conversation is kept.
    """

    def __init__(
        self,
        model: Model,
        options: Options,
        system: str | None = None,
        thinking: Shown | None = None,
        *,
        stats: bool = False,
        session: Path | None = None,
        overflow: Overflow = "drop-oldest-turns",
    ) -> None:
        self._model = model
        self._thinking = thinking
        self._stats = stats
        own: Options = {"stop_loops": True, **options}
        self._conversation = model.conversation(system, session=session, overflow=overflow, **own)
        self._used = 0  # tokens of the context
        self._commands = Commands(model, self._conversation, self.answer)

    def loop(self) -> None:
        """Read, answer, repeat, until /exit or Ctrl-D."""
        manifest = self._model.bundle.manifest
        threads, context = self._model.threads or "default", self._model.context
        facts = (
            f"{manifest.name} · {manifest.quantization.scheme} · {self._model.profile.name}, "
            f"{threads} threads · context {context} · /help lists the commands"
        )
        click.echo(notices.wrapped(facts, sys.stdout))
        self._commands.show()  # of a session that goes on
        typed = open_input(self._commands.names)
        while (question := self._read(typed)) is not None:
            if question.strip() in [f"/{name}" for name in LEAVING]:
                return
            try:
                self._handle(question)
            except EdgertError as error:
                click.echo(notices.wrapped(_advised(error), sys.stderr), err=True)

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
        sampling = self._model.request(**self._conversation.options).sampling
        notices.show(notices.cut_notice(stream.reply, self._model.context, sampling, notices.as_command))
        if self._stats:
            notices.show(notices.stats(stream.reply.timings))
        timings = stream.reply.timings
        before, self._used = self._used, timings.prompt_tokens + timings.answer_tokens
        context, overflow = self._model.context, self._conversation.overflow
        notices.show(notices.nearly_full(before, self._used, context, overflow))
        return timings

    def _prompt(self) -> str:
        """What stands before the place to type: how full the context is, once an answer has told."""
        if not self._used or not self._conversation.turns:
            return ">>> "
        return f"{100 * self._used // self._model.context} % >>> "

    def _read(self, typed: Input) -> str | None:
        """A question; None at the end of input. Ctrl-C clears what was typed."""
        while True:
            try:
                return typed.read(self._prompt())
            except KeyboardInterrupt:
                click.echo("\n(Ctrl-D or /exit leaves)")
            except EOFError:
                click.echo()
                return None

    def _handle(self, question: str) -> None:
        if self._commands.is_command(question):
            self._commands.run(question)
        elif question.strip():
            self.answer(self._commands.with_files(question))
            self._commands.files.clear()


def _advised(error: EdgertError) -> str:
    """What is said of an error: a conversation that is too long has other ways out here than in Python."""
    if isinstance(error, PromptTooLong):
        return f"{error.facts}: shorten it, start over with /clear, or start the chat with a larger --context"
    return str(error)
