"""Calibration: what each matrix multiplies on a text, and how far keys and values reach.

Layers are run in fp32, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from .checkpoint import Checkpoint, FloatArray, InMemory, Tokens
from .hessian import Hessian, inverse_factor
from .layer import KVScales
from .layerwise import Layerwise, Weights
from .matrix import PARTS, Matrix, MatrixName, check_finite, head_name
from .threads import every_core, ordered_map, product_threads

WIDE = 4096  # columns of a factor that is made alone, by all cores
TIED_DAMPING = 0.1  # a tied table is also looked up as it is: its rows must stay near their own values


class Calibration:
    """Runs a text through a checkpoint; matrices of at most `columns` columns get factors.

    A run holds the hidden states behind the layers it has come to. Layers are quickest asked for in order: an
    earlier one starts the run again.
    """

    def __init__(self, checkpoint: Checkpoint, tokens: Tokens, columns: int) -> None:
        self._layers = Layerwise(checkpoint, tokens.shape[1])
        self._spec = checkpoint.spec
        self._tokens, self._columns = tokens, columns
        self._start()

    @property
    def shares_cores(self) -> bool:
        """Whether other work may go on beside it: a wide factor takes all cores, and memory."""
        widest = max(matrix.shape[1] for matrix in self._layers.matrices.values())
        return min(widest, self._columns) <= WIDE

    def compute_factor(self, name: MatrixName) -> FloatArray | None:
        """How errors of a matrix spread, for rounding.gptq, by a run up to its layer.

        None for matrices that are too wide, and for a table that is only looked up.
        """
        if name.layer is not None:
            self._run(name.layer + 1)
            return self._layer_factor("gate" if name.kind == "up" else name.kind)  # both read the same
        if name != head_name(self._spec) or self._spec.hidden_size > self._columns:
            return None
        self._run(self._spec.num_layers)
        return self._head_factor()

    def matrix(self, name: MatrixName) -> Matrix:
        """A matrix, in memory if it is of the layer that the run came to last."""
        if name.layer is None or name.layer != len(self._kv) - 1:
            return self._layers.matrices[name]
        return Matrix((InMemory(self._weights[name.kind]),))

    def compute_kv_scales(self) -> list[KVScales]:
        """Those of each layer, by a run to the end."""
        self._run(self._spec.num_layers)
        return self._kv

    def _start(self) -> None:
        self._kv: list[KVScales] = []
        self._hidden = self._layers.embed(self._tokens)
        self._reading = ordered_map(self._layers.weights, range(self._spec.num_layers), 1)
        self._weights: Weights = {}  # of the latest layer, as all that follows
        self._wide: dict[str, FloatArray] = {}  # Hessians, until factors are made of them
        self._narrow: Iterator[tuple[str, FloatArray]] = iter(())  # factors in the making
        self._factors: dict[str, FloatArray] = {}

    def _run(self, layers: int) -> None:
        """Until so many layers are behind."""
        if len(self._kv) > layers:
            self._start()
        while len(self._kv) < layers:
            self._advance()

    def _layer_factor(self, kind: str) -> FloatArray | None:
        if kind in self._wide:
            self._factors |= dict(self._narrow)  # none is in the making beside it
            with product_threads(every_core()):
                self._factors[kind] = inverse_factor(self._wide.pop(kind))
        while kind not in self._factors and (made := next(self._narrow, None)):
            self._factors[made[0]] = made[1]
        return self._factors.get(kind)

    def _advance(self) -> None:
        spec, layer = self._spec, len(self._kv)
        hidden, reaches = [], []
        self._weights, self._wide, self._factors = next(self._reading), {}, {}
        for kind in PARTS:
            check_finite(MatrixName(layer, kind), self._weights[kind])
        hessians: dict[str, Hessian] = {}
        for output in self._layers.observed(layer, self._weights, self._hidden):
            hidden.append(output.hidden)
            rope = spec.layer_rope(layer)
            keys = _radii(output.keys, rope.dim) if rope else output.keys
            reaches.append([np.abs(part).max(axis=(0, 2)) for part in (keys, output.values)])
            read = {k: x for k, x in output.inputs.items() if k != "up" and x.shape[1] <= self._columns}
            _add(hessians, read)
        keys, values = (np.max([pair[i] for pair in reaches], axis=0)[:, None] for i in (0, 1))
        self._hidden = np.concatenate(hidden)
        self._kv.append(KVScales(_steps(keys), _steps(values)))
        sums = {kind: hessian.sums for kind, hessian in hessians.items()}
        narrow = [kind for kind in sums if len(sums[kind]) <= WIDE]
        made = ordered_map(inverse_factor, [sums.pop(kind) for kind in narrow])
        self._narrow, self._wide = zip(narrow, made, strict=True), sums

    def _head_factor(self) -> FloatArray:
        final = self._layers.final(self._hidden)
        if self._spec.tied_embeddings:
            return inverse_factor(final.T @ final, TIED_DAMPING)
        return inverse_factor(final.T @ final)


def _add(hessians: dict[str, Hessian], read: Mapping[str, FloatArray]) -> None:
    """Add what each kind of matrix multiplied, by all threads."""
    for kind, x in read.items():
        if kind not in hessians:
            hessians[kind] = Hessian(x.shape[1])
    parts = (part for kind, x in read.items() for part in hessians[kind].adding(x))
    for _ in ordered_map(lambda part: part(), parts):
        pass


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
