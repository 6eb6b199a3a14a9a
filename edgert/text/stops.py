"""StopMatcher: holds back text that may be the beginning of a stop string, across token borders."""

from __future__ import annotations

from collections.abc import Sequence

from edgert.errors import UsageError


class StopMatcher:
    """Feed text as it arrives; what comes back is safe to show. `matched` is the stop string found."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Text that is certainly before any stop string."""
        if not self._stops:
            return text
        text = self._held + text
        found = min(((i, stop) for stop in self._stops if (i := text.find(stop)) >= 0), default=None)
        if found:
            self.matched = found[1]
            self._held = ""
            return text[: found[0]]
        keep = max(overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, once nothing follows it."""
        held, self._held = self._held, ""
        return held


def check_stops(stops: Sequence[str]) -> None:
    """Raise UsageError unless these are strings that aren't empty."""
    for stop in stops:
        if not (isinstance(stop, str) and stop):
            raise UsageError(f"stop must be strings that are not empty, not {stop!r}")


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
