"""Decoder: runs the graph. `extend` appends tokens to one row, `decode` one token to each of several rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgert.bundle import GraphFacts, ModelFacts, graph_io
from edgert.engine import memory
from edgert.engine.graph_session import GraphSession, OrtValue, RunOptions
from edgert.engine.growing import GrowingRunner
from edgert.engine.kv_pool import KVPool
from edgert.engine.promises import promise
from edgert.engine.runner import InPlaceRunner, Logits, Runner
from edgert.engine.slots import Slot
from edgert.errors import PromptTooLong

__all__ = ["Decoder", "Logits", "chunk_sizes", "open_decoder"]

STRIDE = 32  # tokens, or rows, that the integer kernels take together: measured, see test_stream.py
IDLE_ROWS_JOINED = 2  # a third as dear as a run of their own for the rows behind them


class Decoder:
    """Tokens in, logits out, over the rows of a KV cache. One thread at a time may use it.

    `slots` are its rows and what they hold. A row gives the same logits, bit for bit, whether it decodes
    alone or with others, and however its tokens were cut by `chunk_sizes`. Other kernels read one token
    alone, which round otherwise.
    """

    def __init__(self, runner: Runner, vocab: int, chunk: int) -> None:
        self.runner = runner
        self.chunk = chunk
        self.capacity = runner.capacity
        self.slots = [Slot(row) for row in range(runner.rows)]
        self._vocab = vocab

    def afresh(self) -> Slot:
        """The first row, emptied, for those who have the decoder to themselves."""
        self.slots[0].rewind(0)
        return self.slots[0]

    def use(self, adapter: Mapping[str, OrtValue]) -> None:
        """Run with an adapter from now on. All rows are forgotten: what they hold is of the one before."""
        self.runner.use(adapter)
        for slot in self.slots:
            slot.rewind(0)

    def score(self, tokens: Sequence[int]) -> Logits:
        """Logits after every token of a text, (len(tokens), vocab), in the first row, emptied before."""
        return self.extend(self.afresh(), tokens, len(tokens))

    def extend(
        self, slot: Slot, tokens: Sequence[int], wanted: int = 1, *, stop: RunOptions | None = None
    ) -> Logits:
        """Append tokens to a row, in chunks; logits after the last `wanted` of them, (wanted, vocab).

        The array is the caller's own. The row notes tokens only once they are in it: after an interrupt, or a
        `stop` that was told to terminate (which raises), it claims nothing that it doesn't hold.
        Raises PromptTooLong.
        """
        self._check_room(slot, len(tokens))
        logits: Logits = np.empty((wanted, self._vocab), np.float32)
        unwanted, done = len(tokens) - wanted, 0
        for size in chunk_sizes(len(tokens), self.chunk):
            rows = logits[max(0, done - unwanted) : max(0, done + size - unwanted)]
            chunk = tokens[done : done + size]
            self.runner.read(slot.row, len(slot), chunk, rows, stop)
            slot.tokens += chunk
            done += size
        return logits

    def decode(self, slots: Sequence[Slot], tokens: Sequence[int]) -> list[Logits]:
        """Append a token to each row; logits after each, (vocab,).

        The arrays are the decoder's own: they hold until the next call. Rows that lie together run together.
        Raises PromptTooLong before anything is computed.
        """
        for slot in slots:
            self._check_room(slot, 1)
        added = {slot.row: token for slot, token in zip(slots, tokens, strict=True)}
        found: dict[int, Logits] = {}
        for rows in self._runs(added):
            found |= self._decode_run(rows, added)
        return [found[slot.row] for slot in slots]

    def _decode_run(self, rows: range, added: Mapping[int, int]) -> dict[int, Logits]:
        """One run over neighbouring rows; logits by row, of those to which a token is added.

        Idle rows between them are computed along. They are told their own length, so that what they write
        lies behind their tokens.
        """
        held = [len(self.slots[row]) for row in rows]
        logits = self.runner.step(rows, held, [added.get(row, 0) for row in rows])
        for row in added.keys() & rows:
            self.slots[row].tokens.append(added[row])
        return {row: logits[index] for index, row in enumerate(rows) if row in added}

    def _runs(self, added: Mapping[int, int]) -> Iterator[range]:
        """The rows that decode, in as few runs as pay: joined over a few idle rows that have room."""
        rows = sorted(added)
        first = last = rows[0]
        for row in rows[1:]:
            idle = self.slots[last + 1 : row]
            full = any(len(slot) >= self.capacity for slot in idle)
            apart = not self.runner.joins or full or len(idle) > IDLE_ROWS_JOINED
            if apart or row - first >= STRIDE:
                yield range(first, last + 1)
                first = row
            last = row
        yield range(first, last + 1)

    def _check_room(self, slot: Slot, count: int) -> None:
        if len(slot) + count > self.capacity:
            raise PromptTooLong(len(slot) + count, self.capacity)


def chunk_sizes(count: int, chunk: int) -> Iterator[int]:
    """Cut `count` tokens into chunks whose every token is computed alike, as long as they can be.

    Kernels work on strides of STRIDE tokens and read one that is left over as they read one alone, which
    rounds otherwise: no chunk leaves one, and none is of a single token unless that is all there is.
    """
    while count > 0:
        size = min(chunk, count)
        while size > 2 and (size % STRIDE == 1 or count - size == 1):
            size -= 1
        yield size
        count -= size


def open_decoder(
    session: GraphSession,
    facts: ModelFacts,
    graph: GraphFacts,
    context: int,
    chunk: int,
    *,
    conversations: int = 1,
) -> Decoder:
    """A decoder over an opened graph, with room for so many conversations of `context` tokens each.

    `chunk`: the most tokens of a prompt that are read in one run.
    """
    runner: Runner
    if graph.cache == graph_io.GROWING:
        runner = GrowingRunner(session, facts, context, conversations)
    else:
        pool = KVPool(session, facts, context, kv=graph.kv, rows=conversations)
        runner = InPlaceRunner(session, facts, pool)
    decoder = Decoder(runner, facts.vocab_size, chunk)
    if session.on_host:
        slots, each = decoder.slots, memory.kv_per_token(facts, graph.kv)
        promise(decoder, lambda: each * (len(slots) * context - sum(map(len, slots))))
    return decoder
