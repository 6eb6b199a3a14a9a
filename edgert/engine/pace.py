"""Pace: how long runs over several tokens take on this machine, beside one over a single token."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median

WIDTHS = (2, 4, 8, 16)  # tokens: kernels work on tiles, so that lengths between these cost about as much
GUESS = 0.2  # of one token's time for each further one, until it was measured
RECENT = 9  # runs of a single token, whose median counts
KEPT = 5  # runs of each width, whose median counts
STALE = 64  # runs of a single token, after which the oldest of each width is forgotten


class Pace:
    """Told of every run by which one row goes on. Medians: a machine has other work, too."""

    def __init__(self) -> None:
        self._alone: deque[float] = deque(maxlen=RECENT)
        self._costs: dict[int, deque[float]] = {width: deque(maxlen=KEPT) for width in WIDTHS}
        self._runs = 0

    def note(self, tokens: int, seconds: float) -> None:
        """A run over so many tokens took so long."""
        if tokens == 1:
            self._alone.append(seconds)
            self._runs += 1
            if self._runs % STALE == 0:
                self._forget_oldest()
        elif tokens in self._costs and self._alone:
            self._costs[tokens].append(seconds / median(self._alone))

    @property
    def alone(self) -> float | None:
        """Seconds of a run over one token; None before the first."""
        return median(self._alone) if self._alone else None

    def cost(self, tokens: int) -> float:
        """The time of a run over so many tokens, as times that of one token."""
        known = self._costs.get(tokens)
        return max(1.0, median(known)) if known else 1 + GUESS * (tokens - 1)

    def _forget_oldest(self) -> None:
        """A width that was measured as too slow gets another chance."""
        for known in self._costs.values():
            if known:
                known.popleft()


def widths(most: int) -> Sequence[int]:
    """The widths that are not larger."""
    return [width for width in WIDTHS if width <= most]
