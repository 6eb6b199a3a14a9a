"""Printer: an answer on standard output as it comes, its thought kept apart from it."""

from __future__ import annotations

import sys
from typing import Literal, TypeAlias

import click

from edgert.answering.reply import Chunk
from edgert.chat.notices import has_colors
from edgert.text.thinking import ANSWERING, THINKING

Shown: TypeAlias = Literal["show", "hide"]

NOTE = "(thinking…)"


class Printer:
    """Prints one answer. Thoughts are dimmed on a terminal, and stand between their tags elsewhere, or where
    NO_COLOR is set (no-color.org). Where they are hidden, a terminal shows a note meanwhile.

    `thinking`: None shows thoughts on a terminal only, so that pipes and files get the answer alone.
    """

    def __init__(self, thinking: Shown | None = None) -> None:
        terminal = sys.stdout.isatty()
        self._shows = terminal if thinking is None else thinking == "show"
        self._dims = has_colors(sys.stdout)
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
            self._answer()
            click.echo(chunk.text, nl=False)

    def end(self, last: str = "") -> None:
        """Nothing follows but `last`: a thought that was cut stays open, a note about it goes."""
        if self._thinking and not self._shows:
            self._answer()
        click.echo(last)

    def _think(self, text: str) -> None:
        if not self._thinking and (text or not self._shows):
            self._thinking = True
            click.echo(self._styled(self._before), nl=False)
        if self._shows:
            click.echo(self._styled(text), nl=False)

    def _answer(self) -> None:
        if self._thinking:
            self._thinking = False
            click.echo(self._after, nl=False)

    def _styled(self, text: str) -> str:
        return click.style(text, dim=True) if self._dims and text else text
