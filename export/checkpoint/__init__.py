"""Checkpoint: a model as somebody trained it, opened lazily. No weight is read before it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgert.bundle import GenerationDefaults, Origin
from edgert.errors import CheckpointError

from .spec import ModelSpec

FloatArray = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]


class StoredTensor(Protocol):
    """A tensor on disk. Reading rows costs memory for those rows only."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def rows(self, start: int, stop: int) -> FloatArray:
        """Rows [start, stop) as float32; for a vector, its elements."""
        ...


@dataclass(frozen=True)
class RowSlice:
    """Some rows of a stored tensor: one matrix of several that a checkpoint stores fused."""

    tensor: StoredTensor
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.stop - self.start, *self.tensor.shape[1:])

    def rows(self, start: int, stop: int) -> FloatArray:
        return self.tensor.rows(self.start + start, self.start + stop)


@dataclass(frozen=True)
class InMemory:
    """A tensor in memory."""

    array: FloatArray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def rows(self, start: int, stop: int) -> FloatArray:
        return self.array[start:stop]


@dataclass(frozen=True)
class TokenizerFiles:
    """What the runtime and other tools read: two JSON tables and the chat template's Jinja source."""

    tokenizer: str
    config: Mapping[str, Any]
    chat_template: str | None


@dataclass(frozen=True)
class Checkpoint:
    """A model's spec, its tensors under edgert's names (`layers.0.q.weight`), tokenizer and defaults.

    `factors`: what the file's tensors were multiplied by to become these, where that isn't 1.

    `names_temperature`: whether its source says how answers are drawn.
    """

    spec: ModelSpec
    tensors: Mapping[str, StoredTensor]
    tokenizer: TokenizerFiles
    generation: GenerationDefaults
    names_temperature: bool
    name_in_file: Callable[[str], str]  # a tensor's name as its file has it
    factors: Mapping[str, float]
    origin: Origin

    def vector(self, name: str) -> FloatArray:
        """A norm's weight or a bias, whole."""
        tensor = self.tensors[name]
        return tensor.rows(0, tensor.shape[0])


def row_ranges(rows: int, step: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each chunk of at most `step` rows."""
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def check_tensors(checkpoint: Checkpoint, source: Path) -> None:
    """Every tensor of the spec is there with its shape, and nothing else. Raises CheckpointError."""
    expected, tensors, name_of = checkpoint.spec.tensors(), checkpoint.tensors, checkpoint.name_in_file
    for name, shape in expected.items():
        if name not in tensors:
            raise CheckpointError(f"{source}: tensor '{name_of(name)}' {list(shape)} is missing")
        if tensors[name].shape != shape:
            raise CheckpointError(
                f"{source}: tensor '{name_of(name)}' is {list(tensors[name].shape)}, "
                f"its config asks for {list(shape)}"
            )
    extra = sorted(tensors.keys() - expected.keys())
    if extra:
        more = f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
        raise CheckpointError(
            f"{source}: tensor '{name_of(extra[0])}'{more} has no place in a {checkpoint.spec.family} model "
            "of this config"
        )
