"""Suggestion: the known name that a mistyped one is closest to."""

from __future__ import annotations

from collections.abc import Iterable


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like it, whatever the case of letters; None if none is alike."""
    from difflib import get_close_matches

    names = {other.lower(): other for other in known}
    found = get_close_matches(name.lower(), names, n=1)
    return names[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The question to put into an error, after what is wrong; empty if no known name is alike."""
    best = closest(name, known)
    return f"; did you mean {best}?" if best else ""
