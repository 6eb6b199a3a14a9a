"""Markdown as it streams: a word at a time, wrapped at the terminal's width, lightly styled.

Nothing that was printed is ever printed again, so that answers scroll as plain text does. Libraries such as
rich render whole documents, and redraw them with each token.
"""

from __future__ import annotations

import re
import unicodedata

import click

PIECES = re.compile(r"\n|[^\S\n]+|\S+")
FENCE = "```"
BULLETS = ("-", "*", "+")
NUMBER = re.compile(r"\d{1,3}[.)]")
HEADING = re.compile("#{1,6}")
MARKS = re.compile(r"(\*\*|`)")


class Markdown:
    """The text of one answer, for a terminal that is `width` columns wide. Without `styled`, marks stay and
    lines are only wrapped. Code and tables are left as they are, whatever their width.
    """

    def __init__(self, width: int, *, styled: bool) -> None:
        self._width = width
        self._styled = styled
        self._held = ""  # a word or a space that may go on
        self._fenced = False
        self._new_line()

    def push(self, text: str) -> str:
        """What can be printed, now that this has come."""
        pieces = PIECES.findall(self._held + text)
        self._held = pieces.pop() if pieces and pieces[-1] != "\n" else ""
        return "".join(map(self._piece, pieces))

    def flush(self) -> str:
        """The rest, once nothing follows."""
        held, self._held = self._held, ""
        return self._piece(held) if held.strip() else ""

    def _new_line(self) -> None:
        self._column = self._indent = 0
        self._spaces = ""  # before the next word; they go where the line is wrapped
        self._begun = self._verbatim = self._heading = self._bold = self._code = False

    def _piece(self, piece: str) -> str:
        if piece == "\n":
            self._new_line()
            return piece
        if piece.isspace():
            self._spaces = "" if self._heading and not self._column else piece
            return ""
        if self._begun:
            return self._inline(piece)
        self._begun = True
        return self._first(piece)

    def _first(self, word: str) -> str:
        """The first word of a line, which says what kind of line it is."""
        fence = word.startswith(FENCE)
        self._verbatim = self._fenced or fence or word.startswith("|")
        self._fenced ^= fence
        self._indent = cells(self._spaces)
        if fence:
            return self._put(self._look(word, dim=True), cells(word))
        item = not self._verbatim and (word in BULLETS or NUMBER.fullmatch(word))
        if item:  # its further lines stand below its text
            self._indent += cells(word) + 1
        if self._styled and not self._verbatim and HEADING.fullmatch(word):
            self._heading = True
            return ""
        if not item:
            return self._inline(word)
        return self._put("•" if self._styled and word in BULLETS else word, cells(word))

    def _inline(self, word: str) -> str:
        """A word without the marks of bold text and code, in the looks that they stand for."""
        if self._verbatim or not self._styled or not word.strip("*"):
            return self._put(word, cells(word))
        shown, plain = "", ""
        for part in MARKS.split(word):
            opens = not plain[-1:].isalnum()
            if part == "`" and (self._code or opens):
                self._code = not self._code
            elif part == "**" and not self._code and (self._bold or opens):
                self._bold = not self._bold
            else:
                plain += part
                shown += self._look(part, bold=self._bold or self._heading, fg="cyan" if self._code else None)
        return self._put(shown, cells(plain))

    def _look(self, text: str, **look: bool | str | None) -> str:
        wanted = {name: value for name, value in look.items() if value}
        return click.style(text, **wanted) if text and wanted and self._styled else text  # type: ignore[arg-type]

    def _put(self, text: str, width: int) -> str:
        spaces, self._spaces = self._spaces, ""
        after = self._column + cells(spaces) + width
        if after > self._width and self._column > self._indent and not self._verbatim:
            self._column = self._indent + width
            return f"\n{' ' * self._indent}{text}"
        self._column = after % self._width if after > self._width else after
        return spaces + text


def cells(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return sum(_cells(character) for character in text) if not text.isascii() else len(text)


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) == "Cf":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
