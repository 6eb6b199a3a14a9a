"""Engine: many sequences over one graph. A step decodes all that are answering, then reads one chunk of one.

The order is mlx-lm's (`BatchGenerator`): whoever answers goes on while somebody's long prompt is read, and of
several prompts each gets its chunk in turn. Cancelling raises a flag that only the step looks at, as in
transformers' continuous batching, so a row is given back by one thread and once.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Tokens

from edgert.engine.chunks import Chunks
from edgert.engine.decoder import Decoder, Logits, chunk_sizes
from edgert.engine.graph_session import Stopped
from edgert.engine.pace import Pace
from edgert.engine.sequence import Sequence
from edgert.engine.slots import Slots


class Engine:
    """Steps are for one thread at a time; `add` and `Sequence.cancel` for any."""

    def __init__(self, decoder: Decoder, clock: Callable[[], float] = time.perf_counter) -> None:
        self.decoder = decoder
        self.pace = Pace()
        self._clock = clock
        self._chunks = Chunks(decoder.chunk, clock)
        self.slots = Slots(decoder.slots, decoder.runner)
        self._arrived: deque[Sequence] = deque()  # by any thread; the others belong to the stepping one
        self._waiting: deque[Sequence] = deque()
        self._active: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """It gets a row as soon as one is free, in the order of coming."""
        self._arrived.append(sequence)

    @property
    def idle(self) -> bool:
        """Whether nobody is here any more. For the stepping thread."""
        return not self._arrived and not self._waiting and not self._active

    @property
    def can_step(self) -> bool:
        """Whether a step would do anything: not while every reader is far behind. For the stepping thread."""
        if self._arrived or self._waiting:
            return True
        return any(sequence.cancelled or sequence.consumer.ready for sequence in self._active)

    def step(self) -> None:
        """Part with those who leave, admit those who wait, then compute."""
        while self._arrived:
            self._waiting.append(self._arrived.popleft())
        self._drop_cancelled()
        self._admit()
        if len(self._active) + len(self._waiting) > 1:
            self._chunks.meet()
        # A slow reader pauses its answer, unless somebody waits for the row.
        ready = [sequence for sequence in self._active if self._waiting or sequence.consumer.ready]
        answering = [sequence for sequence in ready if sequence.left == 1]
        reading = [sequence for sequence in ready if sequence.left > 1]
        if answering:
            self._decode(answering)
        if reading:
            self._active.remove(reading[0])
            self._active.append(reading[0])  # the next chunk is another's
            self._read(reading[0], shared=bool(answering))

    def fail(self, error: BaseException) -> None:
        """End everything with an error that no step should raise."""
        while self._arrived:
            self._waiting.append(self._arrived.popleft())
        for sequence in [*self._waiting, *self._active]:
            with contextlib.suppress(Exception):  # that of the caller is raised
                self._end(sequence, error)

    def _drop_cancelled(self) -> None:
        for sequence in [s for s in (*self._waiting, *self._active) if s.cancelled]:
            self._end(sequence)

    def _admit(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            slot = self.slots.lease(first.tokens, first.owner, fresh=first.fresh)
            if slot is None:
                return
            self._active.append(self._waiting.popleft())
            first.slot = slot
            first.consumer.start(len(slot))

    def _decode(self, sequences: list[Sequence]) -> None:
        """A token more for each, in as few runs as possible. One alone gets its draft, too, if it has one."""
        alone = len(sequences) == 1
        if alone and (draft := sequences[0].consumer.draft(self.pace)):
            self._verify(sequences[0], draft)
            return
        began = self._clock()
        try:
            logits = self.decoder.decode([s.row for s in sequences], [s.tokens[-1] for s in sequences])
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is read
            for sequence in sequences:
                self._end(sequence, error)
            return
        if alone:
            self.pace.note(1, self._clock() - began)
        for sequence, row in zip(sequences, logits, strict=True):
            self._give(sequence, row[None])

    def _verify(self, sequence: Sequence, draft: Tokens[int]) -> None:
        """The next token and those of a draft that come true, in one run."""
        tokens, began = [sequence.tokens[-1], *draft], self._clock()
        logits = self._extend(sequence, tokens, len(tokens))
        if logits is not None:
            self.pace.note(len(tokens), self._clock() - began)
            self._give(sequence, logits, draft)

    def _read(self, sequence: Sequence, *, shared: bool) -> None:
        """The next chunk of a prompt, or of a text that is scored: there a row of logits per token."""
        pending, began = sequence.pending, self._clock()
        chunk = self._chunks.length(shared=shared or sequence.consumer.every)
        tokens = pending[: next(chunk_sizes(len(pending), chunk))]
        whole, every = len(tokens) == len(pending), sequence.consumer.every
        wanted = len(tokens) if every else int(whole)
        logits = self._extend(sequence, tokens, wanted)
        if logits is not None:
            self._chunks.note(len(tokens), self._clock() - began)
        if logits is not None and wanted:
            self._give(sequence, logits)

    def _extend(self, sequence: Sequence, tokens: list[int], wanted: int) -> Logits | None:
        """Logits after the last `wanted` tokens; None if that ended the sequence."""
        try:
            return self.decoder.extend(sequence.row, tokens, wanted, stop=sequence.read())
        except Stopped:
            self._end(sequence)
        except Exception as error:  # noqa: BLE001 - as above
            self._end(sequence, error)
        return None

    def _give(self, sequence: Sequence, logits: Logits, draft: Tokens[int] = ()) -> None:
        try:
            sequence.go_on(sequence.consumer.take(logits), draft)
        except Exception as error:  # noqa: BLE001 - as above
            self._end(sequence, error)
            return
        if sequence.left <= 0:
            self._end(sequence)

    def _end(self, sequence: Sequence, error: BaseException | None = None) -> None:
        """The one door by which sequences leave: done, stopped or failed, the row is given back first."""
        if sequence.slot is None:
            self._waiting.remove(sequence)
        else:
            self._active.remove(sequence)
            self.slots.release(sequence.slot)
        sequence.consumer.end(error, sequence.cancelled)
