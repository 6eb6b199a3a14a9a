"""GrowingRunner: for graphs that give their keys and values back longer than they got them.

Graphs of other exporters (Optimum's) join new keys and values to the old ones. Every step copies the whole
cache, so a token costs more the more there are before it; graphs that append in place don't have that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgert.bundle import ModelFacts, graph_io
from edgert.engine.graph_session import GraphSession, OrtValue, RunOptions, as_value
from edgert.engine.kv_pool import Part
from edgert.engine.runner import Inputs, Logits


class GrowingRunner:
    """Keeps what the graph gave for each row, and gives it back at the next run, cut to what is still held.

    Rows run one at a time.
    """

    joins = False

    def __init__(self, session: GraphSession, facts: ModelFacts, capacity: int, rows: int = 1) -> None:
        self.rows, self.capacity = rows, capacity
        self._session = session
        self._vocab = facts.vocab_size
        self._parts: list[Part] = [
            (layer, part) for layer in range(facts.num_layers) for part in graph_io.PARTS
        ]
        self._empty = {part: self._nothing(part) for part in self._parts}
        self._cache: list[dict[Part, OrtValue]] = [self._empty for _ in range(rows)]

    def read(
        self, row: int, held: int, tokens: Sequence[int], logits: Logits, stop: RunOptions | None
    ) -> None:
        """See `Runner`."""
        wanted = max(1, len(logits))
        out = logits if len(logits) else np.empty((1, self._vocab), np.float32)
        inputs: Inputs = {
            graph_io.INPUT_IDS: np.array([tokens], np.int64),
            graph_io.ATTENTION_MASK: np.ones((1, held + len(tokens)), np.int64),
            graph_io.POSITION_IDS: np.arange(held, held + len(tokens), dtype=np.int64)[None],
            graph_io.LOGITS_POSITIONS: np.arange(len(tokens) - wanted, len(tokens), dtype=np.int64),
        }
        fed = {name: as_value(a) for name, a in inputs.items() if name in self._session.inputs}
        past = {graph_io.past(*part): value for part, value in self._held(row, held).items()}
        binding = self._session.bind({**fed, **past}, {graph_io.LOGITS: as_value(out[None])})
        for part in self._parts:
            binding.allocate(graph_io.present(*part))
        self._session.run(binding, stop)
        made = binding.allocated()
        self._cache[row] = {part: made[graph_io.present(*part)] for part in self._parts}

    def step(self, rows: range, held: Sequence[int], tokens: Sequence[int]) -> Logits:
        """See `Runner`."""
        logits: Logits = np.empty((len(rows), self._vocab), np.float32)
        for index, row in enumerate(rows):
            self.read(row, held[index], tokens[index : index + 1], logits[index : index + 1], None)
        return logits

    def copy(self, source: int, target: int, length: int) -> None:
        """See `Runner`."""
        raise ValueError("caches that grow are not copied")

    def use(self, adapter: Mapping[str, OrtValue]) -> None:
        """See `Runner`."""
        self._session.feed_always(adapter)

    def _held(self, row: int, held: int) -> dict[Part, OrtValue]:
        """The cache of a row, without what was rewound."""
        cache = self._cache[row]
        if not held:
            return self._empty
        if next(iter(cache.values())).shape()[2] == held:
            return cache
        return {part: as_value(value.numpy()[:, :, :held].copy()) for part, value in cache.items()}

    def _nothing(self, part: Part) -> OrtValue:
        _, heads, _, head_dim = self._session.inputs[graph_io.past(*part)]
        return as_value(np.zeros((1, int(heads), 0, int(head_dim)), np.float32))
