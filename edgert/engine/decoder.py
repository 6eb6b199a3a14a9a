"""Decoder: runs the graph. `extend` appends tokens to one row, `decode` one token to each of several rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgert.bundle import ModelFacts, graph_io
from edgert.engine.graph_session import Binding, GraphSession, OrtValue, RunOptions, as_value
from edgert.engine.kv_pool import KVPool, Part
from edgert.engine.slots import Slot
from edgert.errors import PromptTooLong

Logits: TypeAlias = npt.NDArray[np.float32]
Inputs: TypeAlias = Mapping[str, npt.NDArray[Any]]

IDLE_ROWS_JOINED = 2  # a third as dear as a run of their own for the rows behind them


@dataclass(frozen=True)
class Step:
    """Neighbouring rows that decode in one run: what the graph reads and writes, bound once."""

    tokens: npt.NDArray[np.int64]  # (rows, 1)
    lengths: npt.NDArray[np.int32]  # (rows,): tokens in a row with the new one, minus one
    longest: npt.NDArray[np.int32]  # (): the same of the longest row, not minus one
    logits: Logits  # (rows, 1, vocab)
    binding: Binding


class Decoder:
    """Tokens in, logits out, over the rows of a KV pool. One thread at a time may use it.

    `slots` are its rows and what they hold. A row gives the same logits, bit for bit, whether it decodes
    alone or with others, and however its tokens were cut into chunks of two or more. Other kernels read one
    token alone, which round otherwise.
    """

    def __init__(self, session: GraphSession, facts: ModelFacts, pool: KVPool, chunk: int) -> None:
        self.pool = pool
        self.chunk = chunk
        self.slots = [Slot(row) for row in range(pool.rows)]
        self._session = session
        self._vocab = facts.vocab_size
        self._steps: dict[tuple[int, int], Step] = {}
        # Of all rows; steps are slices of them, so that more of them take no more memory.
        self._tokens = np.zeros((pool.rows, 1), np.int64)
        self._lengths = np.zeros(pool.rows, np.int32)
        self._logits: Logits = np.zeros((pool.rows, 1, facts.vocab_size), np.float32)

    def afresh(self) -> Slot:
        """The first row, emptied, for those who have the decoder to themselves."""
        self.slots[0].rewind(0)
        return self.slots[0]

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
            self._read(slot, tokens[done : done + size], rows, stop)
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

    def _read(self, slot: Slot, chunk: Sequence[int], logits: Logits, stop: RunOptions | None) -> None:
        """One run over one row; `logits` are filled with those of its last tokens."""
        length, wanted = len(slot) + len(chunk), max(1, len(logits))
        unread = np.empty((1, self._vocab), np.float32)  # the graph has no form without logits
        inputs: Inputs = {
            graph_io.INPUT_IDS: np.array([chunk], np.int64),
            graph_io.SEQLENS_K: np.array([length - 1], np.int32),
            graph_io.TOTAL_SEQUENCE_LENGTH: np.array(length, np.int32),
            graph_io.LOGITS_POSITIONS: np.arange(len(chunk) - wanted, len(chunk), dtype=np.int64),
        }
        binding = self._bind(inputs, (logits if len(logits) else unread)[None], self.pool.view(slot.row, 1))
        self._session.run(binding, stop)
        slot.tokens += chunk

    def _decode_run(self, rows: range, added: Mapping[int, int]) -> dict[int, Logits]:
        """One run over neighbouring rows; logits by row, of those to which a token is added.

        Idle rows between them are computed along. They are told their own length, so that what they write
        lies behind their tokens.
        """
        step = self._step(rows)
        for index, row in enumerate(rows):
            step.tokens[index, 0] = added.get(row, 0)
            step.lengths[index] = len(self.slots[row])
        step.longest[...] = step.lengths.max() + 1
        self._session.run(step.binding)
        for row in added.keys() & rows:
            self.slots[row].tokens.append(added[row])
        return {row: step.logits[index, 0] for index, row in enumerate(rows) if row in added}

    def _runs(self, added: Mapping[int, int]) -> Iterator[range]:
        """The rows that decode, in as few runs as pay: joined over a few idle rows that have room."""
        rows = sorted(added)
        first = last = rows[0]
        for row in rows[1:]:
            idle = self.slots[last + 1 : row]
            full = any(len(slot) >= self.pool.capacity for slot in idle)
            if not self.pool.joins or full or len(idle) > IDLE_ROWS_JOINED:
                yield range(first, last + 1)
                first = row
            last = row
        yield range(first, last + 1)

    def _step(self, rows: range) -> Step:
        key = rows.start, len(rows)
        if key not in self._steps:
            part = slice(rows.start, rows.stop)
            tokens, lengths, logits = self._tokens[part], self._lengths[part], self._logits[part]
            longest = np.zeros((), np.int32)
            inputs: Inputs = {
                graph_io.INPUT_IDS: tokens,
                graph_io.SEQLENS_K: lengths,
                graph_io.TOTAL_SEQUENCE_LENGTH: longest,
                graph_io.LOGITS_POSITIONS: np.zeros(1, np.int64),
            }
            binding = self._bind(inputs, logits, self.pool.view(*key))
            self._steps[key] = Step(tokens, lengths, longest, logits, binding)
        return self._steps[key]

    def _bind(self, inputs: Inputs, logits: Logits, cache: Mapping[Part, OrtValue]) -> Binding:
        read = {name: as_value(array) for name, array in inputs.items()}
        past = {graph_io.past(*part): value for part, value in cache.items()}
        present = {graph_io.present(*part): value for part, value in cache.items()}  # appended in place
        return self._session.bind({**read, **past}, {graph_io.LOGITS: as_value(logits), **present})

    def _check_room(self, slot: Slot, count: int) -> None:
        if len(slot) + count > self.pool.capacity:
            raise PromptTooLong(len(slot) + count, self.pool.capacity)


def chunk_sizes(count: int, chunk: int) -> Iterator[int]:
    """Cut `count` tokens into chunks, none of a single token unless there is only one: see `Decoder`."""
    while count > 0:
        size = min(chunk, count)
        if count - size == 1 and size > 2:
            size -= 1
        yield size
        count -= size
