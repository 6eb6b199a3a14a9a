"""Runner: one run of a graph over rows of its KV cache. This one is for graphs that append in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from edgert.bundle import ModelFacts, graph_io
from edgert.engine.graph_session import Binding, GraphSession, OrtValue, RunOptions, as_value
from edgert.engine.kv_pool import KVPool

Logits: TypeAlias = npt.NDArray[np.float32]
Inputs: TypeAlias = Mapping[str, npt.NDArray[Any]]


class Runner(Protocol):
    """Runs a graph over `rows` of `capacity` tokens each. It is told how many tokens a row holds.

    `joins`: whether several rows can run together, and be copied.
    """

    rows: int
    capacity: int
    joins: bool

    def read(
        self, row: int, held: int, tokens: Sequence[int], logits: Logits, stop: RunOptions | None
    ) -> None:
        """Append tokens to a row that holds `held`; fill `logits`, (n, vocab), with those of the last n."""
        ...

    def step(self, rows: range, held: Sequence[int], tokens: Sequence[int]) -> Logits:
        """Append a token to each of neighbouring rows; logits (rows, vocab), valid until the next step of
        any of them.
        """
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of a row to another; only where it `joins` rows."""
        ...

    def use(self, adapter: Mapping[str, OrtValue]) -> None:
        """Run with an adapter's values from now on; with none of them it is the base."""
        ...


@dataclass(frozen=True)
class Step:
    """Neighbouring rows that decode in one run: what the graph reads and writes, bound once."""

    tokens: npt.NDArray[np.int64]  # (rows, 1)
    lengths: npt.NDArray[np.int32]  # (rows,): tokens in a row with the new one, minus one
    longest: npt.NDArray[np.int32]  # (): the same of the longest row, not minus one
    logits: Logits  # (rows, 1, vocab)
    binding: Binding


class InPlaceRunner:
    """The graph finds and leaves keys and values in a pool: past and present are the same memory."""

    def __init__(self, session: GraphSession, facts: ModelFacts, pool: KVPool) -> None:
        self.pool = pool
        self.rows, self.capacity, self.joins = pool.rows, pool.capacity, pool.joins
        self._session = session
        self._vocab = facts.vocab_size
        self._steps: dict[tuple[int, int], Step] = {}
        # Of all rows; steps are slices of them, so that more of them take no more memory.
        self._tokens = np.zeros((pool.rows, 1), np.int64)
        self._lengths = np.zeros(pool.rows, np.int32)
        self._logits: Logits = np.zeros((pool.rows, 1, facts.vocab_size), np.float32)

    def read(
        self, row: int, held: int, tokens: Sequence[int], logits: Logits, stop: RunOptions | None
    ) -> None:
        """See `Runner`."""
        length, wanted = held + len(tokens), max(1, len(logits))
        unread = np.empty((1, self._vocab), np.float32)  # the graph has no form without logits
        inputs: Inputs = {
            graph_io.INPUT_IDS: np.array([tokens], np.int64),
            graph_io.SEQLENS_K: np.array([length - 1], np.int32),
            graph_io.TOTAL_SEQUENCE_LENGTH: np.array(length, np.int32),
            graph_io.LOGITS_POSITIONS: np.arange(len(tokens) - wanted, len(tokens), dtype=np.int64),
        }
        binding = self._bind(inputs, (logits if len(logits) else unread)[None], row, 1)
        self._session.run(binding, stop)

    def step(self, rows: range, held: Sequence[int], tokens: Sequence[int]) -> Logits:
        """See `Runner`."""
        step = self._step(rows)
        step.tokens[:, 0] = tokens
        step.lengths[:] = held
        step.longest[...] = max(held) + 1
        self._session.run(step.binding)
        return step.logits[:, 0]

    def copy(self, source: int, target: int, length: int) -> None:
        """See `Runner`."""
        self.pool.copy(source, target, length)

    def use(self, adapter: Mapping[str, OrtValue]) -> None:
        """See `Runner`."""
        self._session.feed_always(adapter)
        self._steps.clear()  # they are bound to the one before

    def _step(self, rows: range) -> Step:
        key = rows.start, len(rows)
        if key not in self._steps:
            part, longest = slice(rows.start, rows.stop), np.zeros((), np.int32)
            tokens, lengths, logits = self._tokens[part], self._lengths[part], self._logits[part]
            inputs: Inputs = {
                graph_io.INPUT_IDS: tokens,
                graph_io.SEQLENS_K: lengths,
                graph_io.TOTAL_SEQUENCE_LENGTH: longest,
                graph_io.LOGITS_POSITIONS: np.zeros(1, np.int64),
            }
            self._steps[key] = Step(tokens, lengths, longest, logits, self._bind(inputs, logits, *key))
        return self._steps[key]

    def _bind(self, inputs: Inputs, logits: Logits, first: int, count: int) -> Binding:
        cache = self.pool.view(first, count)
        read = {name: as_value(array) for name, array in inputs.items()}
        past = {graph_io.past(*part): value for part, value in cache.items()}
        present = {graph_io.present(*part): value for part, value in cache.items()}
        return self._session.bind({**read, **past}, {graph_io.LOGITS: as_value(logits), **present})
