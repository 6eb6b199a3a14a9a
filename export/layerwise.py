"""Layerwise: the fp32 model run one layer at a time, so that few layers' weights are in memory.

It is the reference that bundles are measured against, and where calibration sees what each matrix multiplies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgert import devices
from edgert.bundle import graph_io
from edgert.engine import attention
from edgert.engine.graph_session import InferenceSession, session_options

from .checkpoint import Checkpoint, FloatArray, StoredTensor, Tokens
from .forms import Form, stored
from .graph import OUTPUT, build_layer
from .lower import lower
from .matrix import Matrix, MatrixName, head_name, matrices
from .recipe import fp32
from .threads import ordered_map

BATCH_TOKENS = 1024  # run at a time
KEPT_HEAD = 256 << 20  # bytes of float32: a larger head is read anew for each window

Weights = Mapping[str, FloatArray]  # norms, biases and matrices of one layer; names lack `layers.<n>.`


@dataclass(frozen=True)
class LayerOutput:
    """What a layer made of some windows.

    `hidden` (windows, tokens, hidden_size); `inputs`: what each kind of matrix multiplied, (windows × tokens,
    columns); `keys` after rotation and `values`, (windows, KV heads, tokens, head_dim).
    """

    hidden: FloatArray
    inputs: Mapping[str, FloatArray]
    keys: FloatArray
    values: FloatArray


class Layerwise:
    """A checkpoint's layers as functions of hidden states."""

    def __init__(self, checkpoint: Checkpoint, window: int) -> None:
        self.checkpoint = checkpoint
        self.window = window
        self.matrices = matrices(checkpoint)
        self._sessions: dict[tuple[bool, int | None], tuple[int, InferenceSession]] = {}

    def embed(self, tokens: Tokens, form: Form | None = None) -> FloatArray:
        """Hidden states (windows, tokens, hidden_size) before the first layer; `form`: of the table."""
        table = self.checkpoint.tensors["embedding.weight"]
        known, places = np.unique(tokens, return_inverse=True)
        rows = np.concatenate([table.rows(token, token + 1) for token in known.tolist()])
        if form is not None:
            rows = form.decode(form.encode(rows, None))
        if self.checkpoint.spec.tied_embeddings:
            rows = self._as_read(rows)  # a second time: turned back
        return rows[places.reshape(tokens.shape)]

    def weights(self, layer: int) -> dict[str, FloatArray]:
        """Everything one layer multiplies by or adds, float32."""
        prefix = f"layers.{layer}."
        found = {name.kind: matrix.read() for name, matrix in self.matrices.items() if name.layer == layer}
        vectors = {name: t for name, t in self.checkpoint.tensors.items() if name.startswith(prefix)}
        for name, tensor in vectors.items():
            if len(tensor.shape) == 1:
                found[name.removeprefix(prefix)] = tensor.rows(0, tensor.shape[0])
        if "q.bias" in found:
            found["qkv.bias"] = np.concatenate([found[f"{part}.bias"] for part in "qkv"])
        return found

    def observed(self, layer: int, weights: Weights, hidden: FloatArray) -> Iterator[LayerOutput]:
        """What a layer makes of some windows at a time, in order."""
        built_for, session = self._session(layer)
        for part in self._batches(hidden):
            yield self._observed(built_for, session, weights, part)

    def run(self, layer: int, weights: Weights, hidden: FloatArray) -> FloatArray:
        """Hidden states after a layer."""
        built_for, session = self._session(layer)
        feeds = (self._feeds(built_for, session, weights, part) for part in self._batches(hidden))
        return np.concatenate([session.run([OUTPUT], feed)[0] for feed in feeds])

    def _batches(self, hidden: FloatArray) -> Iterator[FloatArray]:
        step = max(1, BATCH_TOKENS // self.window)
        return (hidden[start : start + step] for start in range(0, len(hidden), step))

    def quantized(
        self, layer: int, weights: Weights, hidden: FloatArray, forms: Mapping[str, Form]
    ) -> FloatArray:
        """Hidden states after a layer, some of its kinds of matrices in forms, by the forms' own kernels."""
        names = {MatrixName(layer, kind): form for kind, form in forms.items()}
        model = build_layer(self.checkpoint.spec, layer, self.window)
        pieces: dict[tuple[MatrixName, str], npt.NDArray[np.generic]] = {}
        for name, form in names.items():
            rows = weights[name.kind]
            fitted = form.fitted(rows.shape[1])
            found, kinds = stored(fitted, rows), fitted.pieces(rows.shape, "matrix")
            pieces |= {(name, piece.name): array for piece, array in zip(kinds, found, strict=True)}
        for slot in lower(model, self.matrices, replace(fp32(), exceptions=names)):
            if slot.matrix not in names:
                model.graph.inputs.append(slot.value)
                continue
            array = pieces[slot.matrix, slot.piece].reshape(slot.shape)
            slot.value.const_value = ir.tensor(array, name=slot.value.name)
            model.graph.register_initializer(slot.value)
        session = _open(model)
        feeds = (self._feeds(layer, session, weights, part[None]) for part in hidden)
        return np.concatenate([session.run([OUTPUT], feed)[0] for feed in feeds])

    def final(self, hidden: FloatArray) -> FloatArray:
        """What the head multiplies, (windows × tokens, hidden_size)."""
        spec = self.checkpoint.spec
        rows = hidden.reshape(-1, spec.hidden_size)
        scale = np.sqrt((rows * rows).mean(-1, keepdims=True) + np.float32(spec.norm_eps))
        normed: FloatArray = rows / scale * self.checkpoint.vector("final_norm.weight")
        return normed @ self.checkpoint.vector("head_mix.weight") if spec.head_mix else self._as_read(normed)

    def _as_read(self, rows: FloatArray) -> FloatArray:
        """Rows (n, hidden_size) turned as what reads the residual stream has them turned."""
        turn = self.checkpoint.spec.read_turn
        return turn(rows) if turn else rows

    @property
    def head(self) -> Matrix:
        return self.matrices[head_name(self.checkpoint.spec)]

    def logits(self, final: FloatArray, form: Form | None = None) -> FloatArray:
        """(tokens, vocab) of what `final` returned; the head is read in chunks, in a form if given."""
        logits, done = np.empty((len(final), self.head.shape[0]), np.float32), 0
        chunks = self._kept_head or ordered_map(_read, self.head.chunks())
        for chunk in chunks:
            rows = chunk if form is None else form.decode(form.encode(chunk, None))
            np.matmul(final, rows.T, out=logits[:, done : done + len(rows)])
            done += len(rows)
        return logits

    @cached_property
    def _kept_head(self) -> list[FloatArray]:
        """All of it, if it is small."""
        return list(map(_read, self.head.chunks())) if 4 * self.head.size <= KEPT_HEAD else []

    def _feeds(
        self, built_for: int, session: InferenceSession, weights: Weights, hidden: FloatArray
    ) -> dict[str, npt.NDArray[np.generic]]:
        spec = self.checkpoint.spec
        windows, length, _ = hidden.shape
        empty = np.zeros((windows, spec.num_kv_heads, 0, spec.head_dim), np.float32)
        feeds: dict[str, npt.NDArray[np.generic]] = {
            "hidden": hidden,
            graph_io.SEQLENS_K: np.full(windows, length - 1, np.int32),
            graph_io.TOTAL_SEQUENCE_LENGTH: np.array(length, np.int32),
            **{graph_io.past(built_for, part): empty for part in graph_io.PARTS},
        }
        prefix = f"layers.{built_for}."
        for value in session.get_inputs():
            if value.name.startswith(prefix):
                name = value.name.removeprefix(prefix).removesuffix(".matrix.weights")
                feeds[value.name] = weights[name]
        return feeds

    def _observed(
        self, built_for: int, session: InferenceSession, weights: Weights, hidden: FloatArray
    ) -> LayerOutput:
        feeds, rows = self._feeds(built_for, session, weights, hidden), hidden.shape[0] * hidden.shape[1]
        names = [value.name for value in session.get_outputs()]
        found = dict(zip(names, session.run(names, feeds), strict=True))
        inputs = {
            MatrixName.parse(name.removesuffix(".input")).kind: array.reshape(rows, -1)
            for name, array in found.items()
            if name.endswith(".input")
        }
        keys, values = (found[graph_io.present(built_for, part)] for part in graph_io.PARTS)
        return LayerOutput(found[OUTPUT], inputs, keys, values)

    def _session(self, layer: int) -> tuple[int, InferenceSession]:
        """Layers of one kind share a session; which layer it was built for, for the names."""
        spec = self.checkpoint.spec
        kind = spec.rope_layers[layer], spec.windows[layer]
        if kind not in self._sessions:
            model = build_layer(spec, layer, self.window)
            for slot in lower(model, self.matrices, fp32()):
                model.graph.inputs.append(slot.value)
            self._sessions[kind] = layer, _open(model)
        return self._sessions[kind]


def _read(chunk: tuple[StoredTensor, int, int]) -> FloatArray:
    part, start, stop = chunk
    return part.rows(start, stop)


def _open(model: ir.Model) -> InferenceSession:
    # Spinning workers would hold the cores that NumPy computes on between two runs.
    options, data = session_options(0, spin=False), ir.to_proto(model).SerializeToString()
    with attention.chosen(keep_scores=devices.here().architecture == "x86_64"):  # windows are short
        return InferenceSession(data, options, ["CPUExecutionProvider"])
