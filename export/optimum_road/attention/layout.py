"""Layout: how a graph holds the heads of queries, keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import onnx_ir as ir

from .probe import Array


class Layout(Enum):
    """Flat is (batch, tokens, heads · head_dim); by heads it has one axis more."""

    FLAT = "flat"
    HEADS_LAST = "heads last"
    HEADS_FIRST = "heads first"

    def by_head(self, array: Array, heads: int, tokens: int, head_dim: int) -> Array | None:
        """An array as (heads, tokens, head_dim); None if it isn't of this layout, with a batch of one."""
        if self is Layout.HEADS_FIRST:
            return array[0] if array.shape == (1, heads, tokens, head_dim) else None
        inner = (heads * head_dim,) if self is Layout.FLAT else (heads, head_dim)
        if array.shape != (1, tokens, *inner):
            return None
        turned: Array = array.reshape(tokens, heads, head_dim).transpose(1, 0, 2)
        return turned


@dataclass(frozen=True)
class Source:
    """A value that holds queries, keys or values, by head or not."""

    value: ir.Value
    layout: Layout

    def flat(self, tape: ir.tape.Tape, name: str) -> ir.Value:
        """The same as (batch, tokens, heads · head_dim); `name` is for what that takes."""
        value = self.value
        if self.layout is Layout.HEADS_FIRST:
            value = tape.op("Transpose", [value], {"perm": [0, 2, 1, 3]})
        if self.layout is Layout.FLAT:
            return value
        shape = tape.initializer(ir.tensor(np.array([0, 0, -1]), name=f"{name}.flat"))
        return tape.op("Reshape", [value, shape])
