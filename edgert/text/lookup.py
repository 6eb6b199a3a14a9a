"""Lookup: what followed the last tokens where they stood before. A draft that costs no model.

Prompt-lookup decoding (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding); llama.cpp's `lookup` and
vLLM's `ngram` draft in this way, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SIZES = (8, 5, 3, 2)  # tokens that must stand there alike: the more, the likelier is what followed
MOST_KNOWN = 1 << 18  # places that are remembered, of all sizes together; beyond, the oldest are forgotten


@dataclass(frozen=True)
class Found:
    """Where the last `size` tokens stood before: `follows` is the place after them."""

    size: int
    follows: int


class Lookup:
    """The tokens of a prompt and its answer, and where each run of a few tokens stood last.

    A further token takes the same time however many there are.
    """

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self.tokens: list[int] = []
        self._follows: dict[tuple[int, ...], int] = {}
        for token in tokens:
            self.push(token)

    def push(self, token: int) -> None:
        """The text goes on with a token: from now on it is known what followed those before it."""
        place = len(self.tokens)
        for size in SIZES:
            if size <= place:
                run = tuple(self.tokens[-size:])
                self._follows.pop(run, None)  # so that it is no longer among the oldest
                self._follows[run] = place
        while len(self._follows) > MOST_KNOWN:
            del self._follows[next(iter(self._follows))]
        self.tokens.append(token)

    def find(self) -> Found | None:
        """The last place where as many as possible of the last tokens stood before; None if none is known."""
        for size in SIZES:
            if (place := self._follows.get(tuple(self.tokens[-size:]))) is not None:
                return Found(size, place)
        return None

    def after(self, place: int, most: int) -> list[int]:
        """The tokens from a place on. Where they reach the text's end, it goes on as it did there."""
        text, period = self.tokens[place : place + most], len(self.tokens) - place
        while len(text) < most:
            text.append(text[-period])
        return text
