"""Calibration: what each matrix multiplies on a text, and how far keys and values reach.

Layers are run in fp32, one at a time and in order, as the writer asks for their matrices.
"""

from __future__ import annotations

import numpy as np

from .checkpoint import Checkpoint, FloatArray, Tokens
from .layer import KVScales
from .layerwise import Layerwise
from .rounding import inverse_factor

TIED_DAMPING = 0.1  # a tied table is also looked up as it is: its rows must stay near their own values


class Calibration:
    """Runs a text through a checkpoint; matrices of at most `columns` columns can ask for factors."""

    def __init__(self, checkpoint: Checkpoint, tokens: Tokens, columns: int) -> None:
        self.layers = Layerwise(checkpoint, tokens.shape[1])
        self.kv: list[KVScales] = []
        self._columns = columns
        self._hidden = self.layers.embed(tokens)
        self._hessians: dict[str, FloatArray] = {}
        self._factors: dict[str, FloatArray] = {}

    def factor(self, matrix: str) -> FloatArray | None:
        """How errors of `layers.3.qkv` or of the head spread, for rounding.gptq; None if nothing is known.

        Layers come in order, the tables last.
        """
        spec = self.layers.checkpoint.spec
        head = "embedding" if spec.tied_embeddings else "head"
        if matrix == head:
            self.finish()
            return self._head_factor() if spec.hidden_size <= self._columns else None
        if not matrix.startswith("layers."):
            return None
        _, layer, kind = matrix.split(".")
        while len(self.kv) <= int(layer):
            self._advance()
        kind = "gate" if kind == "up" else kind  # both read the same
        if kind in self._hessians:
            self._factors[kind] = inverse_factor(self._hessians.pop(kind))
        return self._factors.get(kind)

    def finish(self) -> None:
        """Run the layers that are left."""
        while len(self.kv) < self.layers.checkpoint.spec.num_layers:
            self._advance()

    def _advance(self) -> None:
        spec = self.layers.checkpoint.spec
        layer, hidden, reaches = len(self.kv), [], []
        self._hessians, self._factors = {}, {}
        for output in self.layers.run(layer, self.layers.weights(layer), self._hidden):
            hidden.append(output.hidden)
            keys = _radii(output.keys, spec.rope.dim) if spec.rope_layers[layer] else output.keys
            reaches.append([np.abs(part).max(axis=(0, 2)) for part in (keys, output.values)])
            for kind, x in output.inputs.items():
                if kind != "up" and x.shape[1] <= self._columns:
                    self._hessians[kind] = self._hessians.get(kind, np.float32(0)) + x.T @ x
        keys, values = (np.max([pair[i] for pair in reaches], axis=0)[:, None] for i in (0, 1))
        self._hidden = np.concatenate(hidden)
        self.kv.append(KVScales(_steps(keys), _steps(values)))

    def _head_factor(self) -> FloatArray:
        final = self.layers.final(self._hidden)
        if self.layers.checkpoint.spec.tied_embeddings:
            return inverse_factor(final.T @ final, TIED_DAMPING)
        return inverse_factor(final.T @ final)


def _radii(keys: FloatArray, dim: int) -> FloatArray:
    """Rotated keys (…, head_dim) with each of a pair of channels as large as the pair can make it.

    Rope turns channels i and i + dim / 2 into each other as positions grow: what a short text shows of one of
    them says nothing of long ones, their length does.
    """
    half = dim // 2
    radius = np.hypot(keys[..., :half], keys[..., half:dim])
    return np.concatenate([radius, radius, keys[..., dim:]], axis=-1)


def _steps(reach: FloatArray) -> FloatArray:
    """127 steps to the farthest seen; what lies beyond is clipped."""
    return np.maximum(reach, np.float32(1e-6)).astype(np.float32) / np.float32(127)
