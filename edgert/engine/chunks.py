"""Chunks: how many tokens of a prompt are read before the engine looks who else is here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median

# While others answer: 7 of their steps long, at 92 % of the speed of large chunks.
SHARED = 64
PATIENCE_S = 2.0  # that somebody who has just come waits at most, where others come at all
RECENT_S = 600.0  # as long others may come again
KEPT = 5  # runs, whose median speed counts


class Chunks:
    """`most`: the device's own length, which is quickest for one who is alone.

    On slow machines such a chunk takes many seconds. Who shares the machine reads in shorter ones.
    """

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self.most = most
        self._clock = clock
        self._met: float | None = None
        self._speeds: deque[float] = deque(maxlen=KEPT)

    def meet(self) -> None:
        """Several are here at once."""
        self._met = self._clock()

    def note(self, tokens: int, seconds: float) -> None:
        """A run over so many tokens took so long."""
        if tokens >= SHARED and seconds > 0:
            self._speeds.append(tokens / seconds)

    def length(self, *, shared: bool) -> int:
        """Of the next chunk; `shared`: others answer now."""
        if shared:
            return min(SHARED, self.most)
        if self._met is None or self._clock() - self._met > RECENT_S or not self._speeds:
            return self.most
        return min(self.most, max(SHARED, int(median(self._speeds) * PATIENCE_S)))
