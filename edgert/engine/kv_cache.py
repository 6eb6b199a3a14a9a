"""KVCache: keys and values of every token seen, allocated once, written in place by the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgert.bundle import ModelFacts
from edgert.engine.graph_session import OrtValue, host_buffer

DTYPES: dict[str, type[np.generic]] = {"fp32": np.float32, "int8": np.int8}


class KVCache:
    """Buffers (1, num_kv_heads, capacity, head_dim) a layer and kind, and the tokens they hold.

    `kv` is what they are stored as; for int8 the graph knows the scales. `buffer` makes them where the
    session computes (`GraphSession.buffer`).

    Attention never looks past the sequence length it is told, so rewinding is forgetting tokens: what
    lies behind them in the buffers is overwritten by what comes next.
    """

    def __init__(
        self,
        facts: ModelFacts,
        capacity: int,
        kv: str = "fp32",
        buffer: Callable[[tuple[int, ...], type[np.generic]], OrtValue] = host_buffer,
    ) -> None:
        self.capacity = capacity
        self.tokens: list[int] = []
        shape = (1, facts.num_kv_heads, capacity, facts.head_dim)
        kinds = [f"{layer}.{kind}" for layer in range(facts.num_layers) for kind in ("key", "value")]
        self._buffers = {kind: buffer(shape, DTYPES[kv]) for kind in kinds}

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def past(self) -> dict[str, OrtValue]:
        return {f"past_key_values.{kind}": value for kind, value in self._buffers.items()}

    @property
    def present(self) -> dict[str, OrtValue]:
        """The same buffers as `past`: the graph appends in place."""
        return {f"present.{kind}": value for kind, value in self._buffers.items()}

    def common_prefix(self, tokens: Sequence[int]) -> int:
        """How many tokens at the start are in the cache already."""
        for i, (held, wanted) in enumerate(zip(self.tokens, tokens, strict=False)):
            if held != wanted:
                return i
        return min(len(self.tokens), len(tokens))

    def rewind(self, length: int) -> None:
        """Keep the first `length` tokens."""
        del self.tokens[length:]
