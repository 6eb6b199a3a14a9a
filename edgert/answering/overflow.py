"""Overflow: what a conversation does where the context has no room for another answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

from edgert.errors import UsageError

Overflow: TypeAlias = Literal["error", "drop-oldest-turns", "slide"]
ROOM = 4  # an answer has room as long as this part of the context is free, or all that it may have


def check(overflow: str) -> None:
    """Raises UsageError."""
    if overflow not in get_args(Overflow):
        raise UsageError(f"overflow must be one of {', '.join(get_args(Overflow))}, not {overflow!r}")


def left_out(
    overflow: Overflow,
    turns: Sequence[Mapping[str, Any]],
    before: int,
    room: tuple[int, int | None],
    tokens: Callable[[int], int],
) -> int:
    """How many of the oldest messages the next prompt leaves out, `before` of them already.

    `room`: tokens of the context, and the most that the answer may have. `tokens`: those of the prompt, by
    how many messages it leaves out. Always whole questions with all that answered them; the last one stays.
    """
    context, most = room
    free = context - min(most or context, context // ROOM)
    if overflow == "error" or tokens(before) <= free:
        return before
    enough = context // 2 if overflow == "drop-oldest-turns" else free
    while tokens(before) > enough:
        later = (i for i in range(before + 1, len(turns)) if turns[i]["role"] == "user")
        if (question := next(later, None)) is None:
            return before
        before = question
    return before
