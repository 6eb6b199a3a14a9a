"""Slot: a row of the KV pool and the tokens it certainly holds. Slots: which sequence works in which row."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence

from edgert.engine.runner import Runner

WORTH_KEEPING = 256  # tokens that are not overwritten while another row will do
FORK_TOKENS = 32  # a prefix this much longer in another row is copied: milliseconds instead of a prefill
# The last tokens of a prompt are always read again, since their logits are wanted, and never one alone: the
# kernels round otherwise for one token than for several, and an answer must not depend on what was cached.
READ_AGAIN = 2


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens at the start are the same."""
    same, unknown = 0, min(len(one), len(other)) + 1
    while unknown - same > 1:  # halves are compared as lists, far quicker than one by one
        middle = (same + unknown) // 2
        if list(one[same:middle]) == list(other[same:middle]):
            same = middle
        else:
            unknown = middle
    return same


class Slot:
    """One row. What lies behind its tokens is overwritten by what comes next: to rewind is to forget them."""

    def __init__(self, row: int = 0) -> None:
        self.row = row
        self.tokens: list[int] = []
        self.busy = False
        self.released = 0  # when it was last given back, as a count
        self._owner: weakref.ref[object] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def owner(self) -> object | None:
        """Who wants to go on with it, as long as that object lives."""
        return self._owner() if self._owner else None

    @owner.setter
    def owner(self, owner: object | None) -> None:
        self._owner = weakref.ref(owner) if owner is not None else None

    def rewind(self, length: int) -> None:
        """Keep the first `length` tokens."""
        del self.tokens[length:]

    def common_prefix(self, tokens: Sequence[int]) -> int:
        """How many tokens at the start are in the row already."""
        return common_prefix(self.tokens, tokens)


class Slots:
    """Leases rows. The lowest rows first: neighbours decode in one run, and an unused row takes no memory."""

    def __init__(self, slots: Sequence[Slot], runner: Runner) -> None:
        self._runner = runner
        self._slots = slots
        self._releases = itertools.count(1)

    def __len__(self) -> int:
        return len(self._slots)

    def lease(
        self, tokens: Sequence[int], owner: object | None = None, *, fresh: bool = False
    ) -> Slot | None:
        """A row for these tokens, rewound to what it holds of their beginning; None if all are at work.

        An `owner` (a conversation) gets its own row again, unless it was needed in the meantime. Others take
        a row that nobody owns: the one that holds most of their beginning and loses little by it, so that
        one short prompt after another stays in one row; else the one that was idle for longest. A longer
        beginning in another row, busy or not, is copied. `fresh`: reuse nothing.
        """
        free = [slot for slot in self._slots if not slot.busy]
        if not free:
            return None
        slot = self._choose(free, () if fresh else tokens, owner)
        reusable = 0 if fresh else self._fetch_prefix(slot, tokens)
        slot.rewind(max(0, min(reusable, len(tokens) - READ_AGAIN)))
        slot.busy, slot.owner = True, owner
        return slot

    def of(self, owner: object) -> Slot | None:
        """The row that an owner worked in last, unless somebody else needed it."""
        return next((slot for slot in self._slots if slot.owner is owner), None)

    def release(self, slot: Slot) -> None:
        """Give a row back; what it holds stays until the row is needed."""
        slot.busy, slot.released = False, next(self._releases)

    @staticmethod
    def _choose(free: list[Slot], tokens: Sequence[int], owner: object | None) -> Slot:
        for slot in free:
            if owner is not None and slot.owner is owner:
                return slot
        unowned = [slot for slot in free if slot.owner is None]
        common = {slot: slot.common_prefix(tokens) for slot in unowned}
        cheap = [slot for slot in unowned if len(slot) - common[slot] < WORTH_KEEPING]
        if cheap:
            return max(cheap, key=lambda slot: (common[slot], -slot.row))
        return min(unowned or free, key=lambda slot: slot.released)

    def _fetch_prefix(self, slot: Slot, tokens: Sequence[int]) -> int:
        """How much of the beginning the row holds, after copying it from where there is more of it."""
        held = slot.common_prefix(tokens)
        best = max(self._slots, key=lambda other: other.common_prefix(tokens))
        longest = best.common_prefix(tokens)
        if not self._runner.joins or longest < held + FORK_TOKENS:
            return held
        self._runner.copy(best.row, slot.row, longest)
        slot.tokens = best.tokens[:longest]
        return longest
