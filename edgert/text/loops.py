"""LoopDetector: notices when an answer says the same over and over, as small students may."""

from __future__ import annotations

import numpy as np

LONGEST_PHRASE = 128  # tokens a phrase may have
REPEATS = 4  # times it must have come again, word for word
SHORTEST_LOOP = 64  # tokens that repetition must span: "ha ha ha" is no loop


class LoopDetector:
    """Feed the tokens of one answer; `push` says whether they have become a loop.

    For every period p it counts how many tokens in a row equal the one p before: a phrase of p tokens, said
    once and then REPEATS times more, makes REPEATS × p of them.
    """

    def __init__(self) -> None:
        self._last = np.full(LONGEST_PHRASE, -1, np.int64)  # the latest first
        self._equal = np.zeros(LONGEST_PHRASE, np.int64)
        self._enough = np.maximum(REPEATS * np.arange(1, LONGEST_PHRASE + 1), SHORTEST_LOOP)

    @property
    def repeated(self) -> int:
        """How many of the last tokens only say again what came before them; 0 where there is no loop."""
        return int(self._equal[self._equal >= self._enough].max(initial=0))

    def push(self, token: int) -> bool:
        self._equal = np.where(self._last == token, self._equal + 1, 0)
        self._last[1:] = self._last[:-1]
        self._last[0] = token
        return bool((self._equal >= self._enough).any())
