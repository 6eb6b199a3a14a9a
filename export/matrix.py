"""Matrices as the graph multiplies by them: names, stored tensors stacked along rows, read in chunks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .checkpoint import Checkpoint, FloatArray, StoredTensor, row_ranges
from .checkpoint.spec import ModelSpec

PARTS = {"qkv": ("q", "k", "v"), "o": ("o",), "gate": ("gate",), "up": ("up",), "down": ("down",)}
CHUNK_WEIGHTS = 1 << 20  # 4 MB of float32 at a time: stays in cache while it is quantized
LEAST_ROWS = 512  # of wide matrices more: what NumPy does for a column takes as long for fewer rows


@dataclass(frozen=True)
class MatrixName:
    """Which matrix of the graph: its layer, None for the tables, and its kind.

    Kinds are `qkv`, `o`, `gate`, `up`, `down`, `embedding` and `head`. Manifests, graphs and messages have it
    as text: `layers.3.qkv`, `head`.
    """

    layer: int | None
    kind: str

    @classmethod
    def parse(cls, text: str) -> MatrixName:
        """Raises ValueError for what names no matrix."""
        match = re.fullmatch(r"(?:layers\.(\d+)\.)?(\w+)", text)
        if match is None:
            raise ValueError(f"'{text}' is not the name of a matrix")
        return cls(None if match[1] is None else int(match[1]), match[2])

    def __str__(self) -> str:
        return self.kind if self.layer is None else f"layers.{self.layer}.{self.kind}"


EMBEDDING = MatrixName(None, "embedding")


def head_name(spec: ModelSpec) -> MatrixName:
    """The matrix that makes logits: a tied head is the embedding itself."""
    return EMBEDDING if spec.tied_embeddings else MatrixName(None, "head")


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
        step = max(LEAST_ROWS, CHUNK_WEIGHTS // self.shape[1])
        for part in self.parts:
            for start, stop in row_ranges(part.shape[0], step):
                yield part, start, stop

    def read(self) -> FloatArray:
        """The whole matrix, for small ones and tests."""
        return np.concatenate([part.rows(0, part.shape[0]) for part in self.parts])


def check_finite(name: object, rows: FloatArray) -> None:
    """Raises ValueError for weights that are not."""
    with np.errstate(invalid="ignore"):
        total = rows.sum()  # one pass; NaN and infinities survive a sum
    if not np.isfinite(total):
        raise ValueError(f"matrix '{name}' holds weights that are not finite (NaN or infinite)")


def part_names(name: MatrixName) -> tuple[str, ...]:
    """The tensors that a layer's matrix is made of, top to bottom."""
    return tuple(f"layers.{name.layer}.{part}.weight" for part in PARTS[name.kind])


def matrices(checkpoint: Checkpoint) -> dict[MatrixName, Matrix]:
    """Every matrix of the graph, in the order the graph meets them. A tied head is the embedding itself."""
    tensors, head = checkpoint.tensors, head_name(checkpoint.spec)
    named = {EMBEDDING: Matrix((tensors["embedding.weight"],))}
    for layer in range(checkpoint.spec.num_layers):
        for kind in PARTS:
            name = MatrixName(layer, kind)
            named[name] = Matrix(tuple(tensors[part] for part in part_names(name)))
    if head != EMBEDDING:
        named[head] = Matrix((tensors["head.weight"],))
    return named
