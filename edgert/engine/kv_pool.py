"""KVPool: keys and values of several conversations, one row each, written in place by the graph."""

from __future__ import annotations

import contextlib
import math
import mmap
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgert.bundle import ModelFacts
from edgert.bundle.graph_io import KV_KINDS, PARTS
from edgert.engine.graph_session import GraphSession, OrtValue, as_value

Part = tuple[int, str]  # a layer, and "key" or "value"


class KVPool:
    """One array (rows, num_kv_heads, capacity, head_dim) for each layer's keys and each layer's values.

    `kv` is what they are stored as, "fp32" or "int8"; for int8 the graph knows the scales. The memory lies
    where the session computes. On the processor it is reserved, and taken page by page as it is written, so a
    row that was never used costs nothing. The pool knows no tokens: `Slot` does.
    """

    def __init__(
        self, session: GraphSession, facts: ModelFacts, capacity: int, *, kv: str = "fp32", rows: int = 1
    ) -> None:
        self.capacity = capacity
        self.rows = rows
        parts = [(layer, part) for layer in range(facts.num_layers) for part in PARTS]
        dtype = KV_KINDS[kv].dtype
        row = (facts.num_kv_heads, capacity, facts.head_dim)
        self.joins = session.on_host
        self._arrays: dict[Part, npt.NDArray[np.generic]] = {}
        self._views: dict[tuple[int, int], dict[Part, OrtValue]] = {}
        if session.on_host:
            self._arrays = {part: reserved((rows, *row), dtype) for part in parts}
            return
        for number in range(rows):
            self._views[number, 1] = {part: session.buffer((1, *row), dtype) for part in parts}

    def view(self, first: int, count: int) -> dict[Part, OrtValue]:
        """Keys and values of every layer, `count` rows from `first` on, for the graph to read and write.

        Several rows at once only where the pool `joins` them: a device's own memory can't be sliced.
        """
        if (first, count) not in self._views:
            if not self.joins:
                raise ValueError("rows in a device's own memory run one at a time")
            rows = {part: array[first : first + count] for part, array in self._arrays.items()}
            self._views[first, count] = {part: as_value(array) for part, array in rows.items()}
        return self._views[first, count]

    def read(self, row: int, start: int, stop: int) -> npt.NDArray[np.generic]:
        """A copy of what a row holds of the tokens from `start` to `stop`, (2 · layers, KV heads, tokens,
        head_dim); only where the pool `joins` rows.
        """
        return np.stack([array[row, :, start:stop] for array in self._arrays.values()])

    def write(self, row: int, start: int, content: npt.NDArray[np.generic]) -> None:
        """Put back what `read` gave, from the token `start` on; only where the pool `joins` rows."""
        for array, part in zip(self._arrays.values(), content, strict=True):
            array[row, :, start : start + content.shape[2]] = part

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of a row to another; only where the pool `joins` rows."""
        for array in self._arrays.values():
            array[target, :, :length] = array[source, :, :length]


def reserved(shape: Iterable[int], dtype: np.dtype[Any]) -> npt.NDArray[np.generic]:
    """A zeroed array whose memory the system hands out page by page, as it is first written.

    Not np.zeros: it asks Linux for huge pages, and the first token would take those of a whole row.
    """
    shape = tuple(shape)
    count = math.prod(shape)
    memory = _pages(max(1, count * dtype.itemsize))
    return np.frombuffer(memory, dtype, count).reshape(shape)


def _pages(size: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory
