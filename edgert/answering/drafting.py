"""Drafting: guesses at the next tokens of one answer, as many as pay, and none where they lose.

A run over several tokens takes longer than one over a single token, by how much the machine's `Pace` tells.
How often guesses come true differs from text to text, so it is learnt from the answer itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgert.engine.pace import Pace, widths
from edgert.text.lookup import SIZES, Lookup

LEAST_GAIN = 1.05  # tokens for the time of one, from which a draft is worth it
MEMORY = 0.9  # the weight of a draft's outcome once the next is known
MAY_LOSE = 0.02  # of the time of all tokens so far: the most that drafts may have cost
HEAD_START = 32  # tokens that count as said, so that a short answer may try a draft or two
MAY_SAVE_UP = 4.0  # tokens' time gained, at most, that may be lost again

# How many of ten guesses come true, until it is known: the more tokens stood alike before, the more.
PRIOR = dict(zip(SIZES, (9, 8, 6, 3), strict=True))
PRIOR_WEIGHT = 0.2  # of those ten


@dataclass
class Odds:
    """How often a guess comes true, if those before it did."""

    true: float
    false: float

    @property
    def chance(self) -> float:
        return self.true / (self.true + self.false)

    def learn(self, true: int, *, failed: bool) -> None:
        """So many guesses in a row came true, and then one did not, or the draft ended."""
        self.true, self.false = MEMORY * self.true + true, MEMORY * self.false + failed

    def tokens(self, width: int) -> float:
        """How many tokens a run over one token and a draft, `width` together, gives on average."""
        return sum(self.chance**guess for guess in range(width))


class Drafting:
    """Drafts for one answer by lookup in what it has before it. It counts what drafts gain and cost, in the
    time of one token each; where they lose more than a small share, they pause until the answer has grown.
    """

    def __init__(self, prompt: Iterable[int]) -> None:
        self._lookup = Lookup(prompt)
        self._begin = len(self._lookup.tokens)
        self._odds = {
            size: Odds(true * PRIOR_WEIGHT, (10 - true) * PRIOR_WEIGHT) for size, true in PRIOR.items()
        }
        self._balance = 0.0
        self._size = SIZES[0]
        self._draft: list[int] = []
        self._pace = Pace()

    def push(self, token: int) -> None:
        """The answer goes on with a token, drafted or not."""
        self._lookup.push(token)

    def draft(self, pace: Pace, most: int) -> list[int]:
        """Tokens that may come next, at most so many; empty if none would pay."""
        self._draft = []
        found = self._lookup.find() if self._may_try else None
        if found is not None:
            self._size, self._pace = found.size, pace
            width = self._best_width(self._odds[found.size], pace, most)
            self._draft = self._lookup.after(found.follows, width - 1)
        return self._draft

    def learn(self, true: int) -> None:
        """So many tokens of the draft came true."""
        width = len(self._draft) + 1
        self._odds[self._size].learn(true, failed=true < len(self._draft))
        gained = true + 1 - self._pace.cost(width)
        self._balance = min(self._balance + gained, MAY_SAVE_UP)

    @property
    def _may_try(self) -> bool:
        said = len(self._lookup.tokens) - self._begin
        return self._balance > -MAY_LOSE * (said + HEAD_START)

    @staticmethod
    def _best_width(odds: Odds, pace: Pace, most: int) -> int:
        """Tokens of the run that gives most for its time; 1 is to draft nothing."""
        gains = {width: odds.tokens(width) / pace.cost(width) for width in widths(most + 1)}
        best = max(gains, key=gains.__getitem__, default=1)
        return best if gains.get(best, 0.0) > LEAST_GAIN else 1
