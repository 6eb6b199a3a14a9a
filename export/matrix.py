"""Matrices as the graph multiplies by them: stored tensors stacked along their rows, read in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .checkpoint import Checkpoint, FloatArray, StoredTensor, row_ranges

CHUNK_WEIGHTS = 1 << 20  # 4 MB of float32 at a time: stays in cache while it is quantized


@dataclass(frozen=True)
class Matrix:
    """A weight matrix (rows = outputs, columns = inputs) made of one or more tensors, top to bottom."""

    parts: tuple[StoredTensor, ...]

    @property
    def shape(self) -> tuple[int, int]:
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    def chunks(self) -> Iterator[tuple[StoredTensor, int, int]]:
        """Tensor and row range of each chunk, in order."""
        step = max(1, CHUNK_WEIGHTS // self.shape[1])
        for part in self.parts:
            for start, stop in row_ranges(part.shape[0], step):
                yield part, start, stop

    def read(self) -> FloatArray:
        """The whole matrix, for small ones and tests."""
        return np.concatenate([part.rows(0, part.shape[0]) for part in self.parts])


def matrices(checkpoint: Checkpoint) -> dict[str, Matrix]:
    """Every matrix of the graph, in the order the graph meets them. A tied head is the embedding itself."""
    tensors = checkpoint.tensors
    named = {"embedding": Matrix((tensors["embedding.weight"],))}
    for layer in range(checkpoint.spec.num_layers):
        for name, parts in (("qkv", "q k v"), ("o", "o"), ("gate", "gate"), ("up", "up"), ("down", "down")):
            stack = tuple(tensors[f"layers.{layer}.{part}.weight"] for part in parts.split())
            named[f"layers.{layer}.{name}"] = Matrix(stack)
    if not checkpoint.spec.tied_embeddings:
        named["head"] = Matrix((tensors["head.weight"],))
    return named
