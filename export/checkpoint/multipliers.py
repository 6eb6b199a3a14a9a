"""Multipliers: constant factors of a model's definition, put into its weights so that no graph has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from . import FloatArray, StoredTensor
from .spec import ModelSpec


@dataclass(frozen=True)
class Multipliers:
    """What a model multiplies: embeddings; what attention and MLP add to the residual stream; logits; the
    products of queries and keys (None: by 1 / sqrt(head_dim), as the graph does).
    """

    embedding: float = 1.0
    residual: float = 1.0
    logits: float = 1.0
    attention: float | None = None

    def factors(self, spec: ModelSpec) -> dict[str, float]:
        """By what to multiply which tensors, so that the model computes the same without multipliers.

        A tied table is scaled for the lookup, so the last norm undoes that before the head.
        """
        head = self.logits / self.embedding if spec.tied_embeddings else self.logits
        kinds = {"embedding": self.embedding, "final_norm": head, "o": self.residual, "down": self.residual}
        if self.attention is not None:
            kinds["q_norm" if spec.qk_norm else "q"] = self.attention * math.sqrt(spec.head_dim)
        found = {name: kinds.get(name.split(".")[-2], 1.0) for name in spec.tensors()}
        return {name: factor for name, factor in found.items() if factor != 1.0}


def scaled(tensors: Mapping[str, StoredTensor], factors: Mapping[str, float]) -> dict[str, StoredTensor]:
    """The tensors times their factors."""
    return {
        name: Scaled(tensor, factors[name]) if name in factors else tensor for name, tensor in tensors.items()
    }


@dataclass(frozen=True)
class Scaled:
    """A tensor times a factor."""

    tensor: StoredTensor
    factor: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    def rows(self, start: int, stop: int) -> FloatArray:
        return self.tensor.rows(start, stop) * self.factor


@dataclass(frozen=True)
class OnePlus:
    """A norm's weight that is stored as its distance from one."""

    tensor: StoredTensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    def rows(self, start: int, stop: int) -> FloatArray:
        return self.tensor.rows(start, stop) + 1
