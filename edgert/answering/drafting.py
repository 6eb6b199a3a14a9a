"""Drafting: guesses at the next tokens of one answer, as many as pay, and none where they lose.

A run over several tokens takes longer than one over a single token, by how much the machine's `Pace` tells.
How often guesses come true differs from text to text, so it is learnt from the answer itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgert.answering.guesser import Guesser
from edgert.engine.pace import Pace, widths
from edgert.text.lookup import SIZES, Found, Lookup

LEAST_GAIN = 1.05  # tokens for the time of one, from which a draft is worth it
MEMORY = 0.9  # the weight of a draft's outcome once the next is known
MAY_LOSE = 0.02  # of the time of all tokens so far: the most that drafts may have cost
HEAD_START = 32  # tokens that count as said, so that a short answer may try a draft or two
MAY_SAVE_UP = 4.0  # tokens' time gained, at most, that may be lost again

# How many of ten guesses come true, until it is known: the more tokens stood alike before, the more.
GUESSED = 0  # the source of a smaller student's guesses; the others are the sizes of what was looked up
PRIOR = {**dict(zip(SIZES, (9, 8, 6, 3), strict=True)), GUESSED: 6}
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


@dataclass(frozen=True)
class Plan:
    """What a draft would be: its source, the tokens of the run with it, what that gives for its time, in
    tokens for the time of one, and what guessing costs, in times of one.
    """

    source: int
    width: int
    gain: float
    cost: float = 0.0


class Drafting:
    """Drafts for one answer: by lookup in what it has before it, or by a smaller student if there is one,
    whichever promises more. It counts what drafts gain and cost, in the time of one token each; where they
    lose more than a small share, they pause until the answer has grown.
    """

    def __init__(self, prompt: Iterable[int], guesser: Guesser | None = None) -> None:
        self._lookup = Lookup(prompt)
        self._guesser = guesser
        self._begin = len(self._lookup.tokens)
        self._odds = {
            source: Odds(true * PRIOR_WEIGHT, (10 - true) * PRIOR_WEIGHT) for source, true in PRIOR.items()
        }
        self._balance = 0.0
        self._plan = Plan(SIZES[0], 1, 1.0)
        self._draft: list[int] = []
        self._pace = Pace()

    def push(self, token: int) -> None:
        """The answer goes on with a token, drafted or not."""
        self._lookup.push(token)

    def draft(self, pace: Pace, most: int) -> list[int]:
        """Tokens that may come next, at most so many; empty if none would pay."""
        self._draft, self._pace = [], pace
        if not self._may_try:
            return self._draft
        found = self._lookup.find()
        plans = [self._planned(found.size, most)] if found else []
        if self._guesser and pace.alone:
            each = (self._guesser.seconds or 0.0) / pace.alone
            plans.append(self._planned(GUESSED, most, each))
        best = max(plans, key=lambda plan: plan.gain, default=self._plan)
        if plans and best.gain > LEAST_GAIN:
            self._plan = best
            self._draft = self._tokens(best, found)
        return self._draft

    def learn(self, true: int) -> None:
        """So many tokens of the draft came true."""
        width = len(self._draft) + 1
        self._odds[self._plan.source].learn(true, failed=true < len(self._draft))
        gained = true + 1 - self._pace.cost(width) - self._plan.cost
        self._balance = min(self._balance + gained, MAY_SAVE_UP)

    def _tokens(self, plan: Plan, found: Found | None) -> list[int]:
        if plan.source == GUESSED and self._guesser:
            return self._guesser.guess(self._lookup.tokens, plan.width - 1)
        return self._lookup.after(found.follows, plan.width - 1) if found else []

    @property
    def _may_try(self) -> bool:
        said = len(self._lookup.tokens) - self._begin
        return self._balance > -MAY_LOSE * (said + HEAD_START)

    def _planned(self, source: int, most: int, each: float = 0.0) -> Plan:
        """The width that gives most for its time, where each guess costs so much; 1 is to draft nothing."""
        odds = self._odds[source]
        costs = {width: each * (width - 1) for width in widths(most + 1)}
        gains = {width: odds.tokens(width) / (self._pace.cost(width) + cost) for width, cost in costs.items()}
        best = max(gains, key=gains.__getitem__, default=1)
        return Plan(source, best, gains.get(best, 0.0), costs.get(best, 0.0))
