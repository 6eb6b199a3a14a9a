"""Input: questions as they are typed or pasted, of one line or several."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import sys
from collections.abc import Sequence
from typing import Protocol

QUOTES = '"""'
GOES_ON = "\\"  # at a line's end
MORE = "... "  # the prompt of further lines
PASTE_S = 0.02  # within which the next line of a paste is there; nobody types that fast


class Input(Protocol):
    """Where questions come from."""

    def read(self, prompt: str) -> str:
        """The next question. Raises EOFError at the end of input, KeyboardInterrupt."""


def open_input(commands: Sequence[str]) -> Input:
    """With an editor, Tab and history where the extra [chat] is installed, or else plain."""
    terminal = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    if terminal and importlib.util.find_spec("prompt_toolkit"):
        from edgert.chat.editing import EditedInput

        return EditedInput(commands)
    return PlainInput()


class PlainInput:
    """Lines from `input`. Pasted lines are one question: the terminal marks them where readline can tell, and
    elsewhere they are there at once.
    """

    def __init__(self) -> None:
        self._marks_pastes = False
        with contextlib.suppress(ImportError):
            import readline  # line editing, where the system has it

            # Python turns it off, which is right for its own interpreter only. libedit hasn't got it.
            readline.parse_and_bind("set enable-bracketed-paste on")
            self._marks_pastes = "libedit" not in (readline.__doc__ or "")

    def read(self, prompt: str) -> str:
        """The next question. Raises EOFError at the end of input, KeyboardInterrupt."""
        question = input(prompt)
        if question.startswith(QUOTES):
            return _until_quotes(question.removeprefix(QUOTES))
        lines = [question]
        while lines[-1].endswith(GOES_ON) or self._pasted():
            lines[-1] = lines[-1].removesuffix(GOES_ON)
            lines.append(input(MORE if question else ""))
        return "\n".join(lines)

    def _pasted(self) -> bool:
        """Whether a further line is there already."""
        if self._marks_pastes or not sys.stdin.isatty():
            return False
        if sys.platform == "win32":
            import msvcrt

            return msvcrt.kbhit()
        return bool(select.select([sys.stdin], [], [], PASTE_S)[0])


def _until_quotes(first: str) -> str:
    lines = [first]
    while not lines[-1].endswith(QUOTES):
        lines.append(input(MORE))
    return "\n".join(lines).removesuffix(QUOTES)
