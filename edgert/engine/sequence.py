"""Sequence: tokens on their way through the graph, and who takes the logits."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from typing import Protocol

from edgert.engine.decoder import Logits
from edgert.engine.graph_session import RunOptions
from edgert.engine.pace import Pace
from edgert.engine.slots import Slot, common_prefix


class Consumer(Protocol):
    """What a sequence's logits are for: an answer, or scores of a text. The computing thread calls it."""

    every: bool
    """Whether logits after every token are wanted, or only those after the last."""

    @property
    def ready(self) -> bool:
        """Whether more may be computed now: not while a slow reader is far behind."""
        ...

    def start(self, cached_tokens: int) -> None:
        """The sequence has its row, which holds so many of its tokens already."""
        ...

    def draft(self, pace: Pace) -> Tokens[int]:
        """Tokens that may follow those that went on, none if that wouldn't pay. `take` gets the logits after
        the sequence's last token and after each of these.
        """
        ...

    def take(self, logits: Logits) -> Tokens[int]:
        """Logits (n, vocab), valid during the call, to the tokens that go on; none ends the sequence once
        all its tokens are read.
        """
        ...

    def end(self, error: BaseException | None, cancelled: bool) -> None:
        """Nothing more will come. Called exactly once."""
        ...


class Sequence:
    """What is to be read and what was read of it: the row's tokens catch up with the sequence's.

    `owner`: a conversation that wants its row again. `fresh`: reuse nothing of what rows hold.
    """

    def __init__(
        self, tokens: Tokens[int], consumer: Consumer, owner: object | None = None, *, fresh: bool = False
    ) -> None:
        self.tokens = list(tokens)
        self.consumer = consumer
        self.owner = owner
        self.fresh = fresh
        self.slot: Slot | None = None
        self.cancelled = False
        self._reading: RunOptions | None = None

    @property
    def row(self) -> Slot:
        """Its row; only while it has one."""
        assert self.slot is not None  # noqa: S101 - the engine asks for admitted sequences only
        return self.slot

    @property
    def left(self) -> int:
        """How many tokens the row doesn't hold yet."""
        return len(self.tokens) - len(self.row)

    @property
    def pending(self) -> list[int]:
        """Those tokens."""
        return self.tokens[len(self.row) :]

    def go_on(self, tokens: Tokens[int], draft: Tokens[int] = ()) -> None:
        """Tokens follow. Of a draft, which the row holds already, those that didn't come true are forgotten,
        and the last token in any case: logits after it are wanted.
        """
        if tokens and draft:
            self.row.rewind(len(self.row) - len(draft) + common_prefix(tokens[:-1], draft))
        self.tokens += tokens

    def cancel(self) -> None:
        """Stop: before the next step; a chunk that is being read, at once. From any thread."""
        self.cancelled = True
        if reading := self._reading:
            reading.terminate = True

    def read(self) -> RunOptions:
        """Options of the run that reads its next chunk, its own: a late stop must hit no later run."""
        self._reading = options = RunOptions()
        if self.cancelled:  # never set back: `cancel` may come at any moment
            options.terminate = True
        return options
