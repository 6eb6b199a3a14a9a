"""Printer: an answer on standard output as it comes, its thought kept apart from it."""

from __future__ import annotations

import shutil
import sys
from typing import Literal, TypeAlias

import click

from edgert.answering.reply import Chunk
from edgert.chat.markdown import Markdown
from edgert.chat.notices import has_colors
from edgert.text.thinking import ANSWERING, THINKING

Shown: TypeAlias = Literal["show", "hide"]

NOTE = "(thinking…)"
WIDEST = 100  # columns: longer lines are hard to read


class Printer:
    """Prints one answer. On a terminal its lines are wrapped between words, and its Markdown is rendered; a
    pipe gets every byte as it is, and so does a terminal for what is no Markdown (`raw`).

    Thoughts are dimmed on a terminal, and stand between their tags elsewhere, or where NO_COLOR is set
    (no-color.org). Where they are hidden, a terminal shows a note meanwhile.
    `thinking`: None shows thoughts on a terminal only, so that pipes and files get the answer alone.
    """

    def __init__(self, thinking: Shown | None = None, *, raw: bool = False) -> None:
        terminal = sys.stdout.isatty()
        self._shows = terminal if thinking is None else thinking == "show"
        self._dims = has_colors(sys.stdout)
        width = min(WIDEST, shutil.get_terminal_size().columns)
        self._answer = Markdown(width, styled=self._dims) if terminal and not raw else None
        self._thought = Markdown(width, styled=False) if terminal else None
        if self._shows and self._dims:
            self._before, self._after = "", "\n\n"
        elif self._shows:
            self._before, self._after = f"{THINKING}\n", f"\n{ANSWERING}\n\n"
        else:
            self._before, self._after = (NOTE, f"\r{' ' * len(NOTE)}\r") if terminal else ("", "")
        self._thinking = False  # whether something is on the screen that `_after` ends

    def show(self, chunk: Chunk) -> None:
        """The next of the answer's chunks."""
        if chunk.channel == "thinking":
            self._think(chunk.text)
        elif chunk.text:
            self._begin_answer()
            click.echo(self._answer.push(chunk.text) if self._answer else chunk.text, nl=False)

    def end(self, last: str = "") -> None:
        """Nothing follows but `last`: a thought that was cut stays open, a note about it goes."""
        if self._thinking and not self._shows:
            self._begin_answer()
        rest = self._styled(self._rest_of_thought()) + (self._answer.flush() if self._answer else "")
        click.echo(rest + last)

    def _think(self, text: str) -> None:
        if not self._thinking and (text or not self._shows):
            self._thinking = True
            click.echo(self._styled(self._before), nl=False)
        if self._shows:
            click.echo(self._styled(self._thought.push(text) if self._thought else text), nl=False)

    def _rest_of_thought(self) -> str:
        return self._thought.flush() if self._thought and self._shows else ""

    def _begin_answer(self) -> None:
        if self._thinking:
            self._thinking = False
            click.echo(self._styled(self._rest_of_thought()) + self._after, nl=False)

    def _styled(self, text: str) -> str:
        return click.style(text, dim=True) if self._dims and text else text
