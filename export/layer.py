"""One layer of the decoder in ONNX Runtime's fast operators.

    norm → qkv → attention → o → norm → gate, up → SiLU · → down

(Gemma and OLMo 2 have a norm after o and after down, too; OLMo 2 has none before.)
GroupQueryAttention rotates and appends to the KV cache itself (past and present share one buffer);
SkipSimplifiedLayerNormalization adds the residual and normalises in one node. Matrices are left abstract:
`edgert::Linear` nodes name the matrix they read, and `lower.py` replaces them by the operators of a form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from edgert.bundle import graph_io
from edgert.bundle.graph_io import FP32, KVKind

from .checkpoint import FloatArray
from .checkpoint.rope import Rope
from .checkpoint.spec import ModelSpec
from .matrix import MatrixName
from .rotation import BlockRotation, hadamard, hartley

ABSTRACT = "edgert"
MICROSOFT = "com.microsoft"
SCALE_INPUT = 12  # of GroupQueryAttention: k_scale, v_scale
MICROSOFT_OPS = ("GroupQueryAttention", "SkipSimplifiedLayerNormalization", "QuickGelu")

Vectors = Callable[[str], FloatArray]


@dataclass
class Builder:
    """Records nodes in order; one for each graph. `adapted`: (rows, columns) of what adapters may change.

    `flat`: layers work on (tokens, channels), those of all sequences one after another, which whole integer
    products want; otherwise on (batch, sequence, channels).
    """

    spec: ModelSpec
    vector: Vectors
    adapted: Mapping[MatrixName, tuple[int, int]] = field(default_factory=dict)
    adapter_inputs: list[ir.Value] = field(default_factory=list)
    tape: ir.tape.Tape = field(default_factory=ir.tape.Tape)
    constants: dict[str, ir.Value] = field(default_factory=dict)
    flat: bool = False

    def op(self, kind: str, inputs: list[ir.Value | None], name: str, **attributes: Any) -> ir.Value:
        """One ai.onnx or com.microsoft node with one output."""
        domain = MICROSOFT if kind in MICROSOFT_OPS else ""
        return self.tape.op(kind, inputs, attributes or None, domain=domain, name=name)

    def constant(self, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
        return self.tape.initializer(ir.tensor(array, name=name))

    def shared(self, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
        """A constant that many layers read."""
        if name not in self.constants:
            self.constants[name] = self.constant(name, array)
        return self.constants[name]

    def weight(self, name: str) -> ir.Value:
        """A norm's weight or a bias as an initializer."""
        return self.constant(name, self.vector(name))

    def bias(self, matrix: MatrixName, names: list[str]) -> ir.Value:
        """The biases of a matrix's parts, stacked."""
        return self.constant(f"{matrix}.bias", np.concatenate([self.vector(name) for name in names]))

    def linear(self, x: ir.Value, matrix: MatrixName, bias: list[str]) -> ir.Value:
        """x (..., columns) times a matrix, transposed, plus the biases of its parts stacked."""
        if self.flat:
            x.type = ir.TensorType(ir.DataType.FLOAT)
            x.shape = ir.Shape([None, None])  # tells forms that they need not flatten it
        inputs: list[ir.Value | None] = [x]
        if bias:
            inputs.append(self.bias(matrix, bias))
        y = self.tape.op("Linear", inputs, {"matrix": str(matrix)}, domain=ABSTRACT, name=str(matrix))
        return self._with_adapter(y, x, matrix) if matrix in self.adapted else y

    def _with_adapter(self, y: ir.Value, x: ir.Value, matrix: MatrixName) -> ir.Value:
        """y + x · A · B: inputs that have a default, of rank 0."""
        rows, columns = self.adapted[matrix]
        a, b = (graph_io.lora(str(matrix), part) for part in graph_io.LORA_PARTS)
        for name, shape, rank_axis in ((a, (columns, 0), 1), (b, (0, rows), 0)):
            value = self.constant(name, np.zeros(shape, np.float32))
            free: list[int | str] = list(shape)
            free[rank_axis] = f"{matrix}.rank"
            value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(free)
            self.adapter_inputs.append(value)
        value_a, value_b = self.adapter_inputs[-2:]
        narrow = self.op("MatMul", [x, value_a], f"{matrix}/{graph_io.LORA_PARTS[0]}")
        added = self.op("MatMul", [narrow, value_b], f"{matrix}/{graph_io.LORA_PARTS[1]}")
        return self.op("Add", [y, added], f"{matrix}/adapted")


@dataclass(frozen=True)
class Positions:
    """What GroupQueryAttention wants to know: last index and length of the sequence, and the tables of
    cosines and sines of each rope; in flat layers also batch and sequence, to give its input their shape.
    """

    seqlens_k: ir.Value  # int32 (batch,): tokens in the cache after this run, minus one
    total: ir.Value  # int32 scalar: the same, not minus one
    tables: Mapping[Rope, tuple[ir.Value, ir.Value]]
    shape: ir.Value | None = None  # int64 (3,): batch, sequence, -1


@dataclass(frozen=True)
class KVScales:
    """What one step of an 8-bit key or value stands for, per channel, (KV heads, 1, head_dim)."""

    keys: FloatArray
    values: FloatArray


@dataclass(frozen=True)
class LayerCache:
    """One layer's key and value before and after this run, (batch, KV heads, context, head_dim) each; their
    kind, and the scales of their channels if it is a kind that has some.
    """

    past: tuple[ir.Value, ir.Value]
    present: tuple[ir.Value, ir.Value]
    kind: KVKind = FP32
    scales: KVScales | None = None


@dataclass(frozen=True)
class LayerInputs:
    """What a layer needs besides hidden states: its number, positions and its cache."""

    layer: int
    positions: Positions
    cache: LayerCache


def layer_nodes(
    b: Builder, hidden: ir.Value, residual: ir.Value | None, given: LayerInputs
) -> tuple[ir.Value, ir.Value]:
    """What a layer adds to the residual stream, and the stream before that is added."""
    prefix = f"layers.{given.layer}"
    x, residual = _reading(b, hidden, residual, f"{prefix}.attn_norm")
    attended = _post_norm(b, _attention(b, x, given), f"{prefix}.attn_post_norm")
    x, residual = _reading(b, attended, residual, f"{prefix}.mlp_norm")
    return _post_norm(b, _mlp(b, x, given.layer), f"{prefix}.mlp_post_norm"), residual


def _reading(b: Builder, x: ir.Value, residual: ir.Value | None, name: str) -> tuple[ir.Value, ir.Value]:
    """What attention or MLP read of x + residual, and that sum as the next residual."""
    if b.spec.pre_norms:
        read, residual = norm(b, x, residual, name)
    else:
        read = residual = x if residual is None else b.op("Add", [x, residual], f"{name}/residual")
    if turn := b.spec.read_turn:
        read = turned(b, read, f"{name}/turned", turn, b.spec.hidden_size, flat=b.flat)
    return read, residual


def _post_norm(b: Builder, x: ir.Value, name: str) -> ir.Value:
    return norm(b, x, None, name)[0] if b.spec.post_norms else x


def norm(b: Builder, x: ir.Value, residual: ir.Value | None, name: str) -> tuple[ir.Value, ir.Value]:
    """RMSNorm of x + residual, and that sum as the next residual."""
    weight = b.weight(f"{name}.weight")
    if residual is None:
        return _rms_norm(b, x, weight, name), x
    outputs = b.tape.op_multi_out(
        "SkipSimplifiedLayerNormalization",
        [x, residual, weight],
        {"epsilon": b.spec.norm_eps},
        num_outputs=4,
        domain=MICROSOFT,
        name=name,
    )
    outputs[1].name = outputs[2].name = ""  # mean and inverse deviation: not wanted
    return outputs[0], outputs[3]


def _rms_norm(b: Builder, x: ir.Value, weight: ir.Value, name: str) -> ir.Value:
    """Over the last axis of x."""
    attributes = {"axis": -1, "epsilon": b.spec.norm_eps, "stash_type": 1}
    return b.op("SimplifiedLayerNormalization", [x, weight], name, **attributes)


def _attention(b: Builder, x: ir.Value, given: LayerInputs) -> ir.Value:
    spec, layer, positions, cache = b.spec, given.layer, given.positions, given.cache
    prefix = f"layers.{layer}"
    biases = [f"{prefix}.{part}.bias" for part in "qkv"] if spec.qkv_bias else []
    qkv = b.linear(x, MatrixName(layer, "qkv"), biases)
    if b.flat:
        qkv = b.op("Reshape", [qkv, positions.shape], f"{prefix}.sequences")
    heads = _normed_heads(b, qkv, prefix) if spec.qk_norm else (qkv, None, None)
    rope = spec.layer_rope(layer)
    attributes: dict[str, Any] = {
        "num_heads": spec.num_heads,
        "kv_num_heads": spec.num_kv_heads,
        "do_rotary": int(rope is not None),
        "local_window_size": spec.windows[layer] or -1,
    }
    inputs = [*heads, *cache.past, positions.seqlens_k, positions.total]
    inputs += positions.tables[rope] if rope else []
    if cache.scales:
        attributes |= {
            "kv_cache_bit_width": 8 * cache.kind.bytes,
            "k_quant_type": "PER_CHANNEL",
            "v_quant_type": "PER_CHANNEL",
        }
        inputs += [None] * (SCALE_INPUT - len(inputs))
        inputs.append(b.constant(f"{prefix}.k_scale", cache.scales.keys))
        inputs.append(b.constant(f"{prefix}.v_scale", cache.scales.values))
    attended = ir.Value(name=f"{prefix}.attention")
    b.tape.op_multi_out(
        "GroupQueryAttention",
        inputs,
        attributes,
        outputs=[attended, *cache.present],
        domain=MICROSOFT,
        name=f"{prefix}.attention",
    )
    attended = flattened(b, attended, spec.q_size, prefix)
    return b.linear(attended, MatrixName(layer, "o"), [f"{prefix}.o.bias"] if spec.o_bias else [])


def _normed_heads(b: Builder, qkv: ir.Value, prefix: str) -> tuple[ir.Value, ir.Value, ir.Value]:
    """An RMSNorm over each head of q and of k, or over all of them. (GQA's own has no CPU kernel.)"""
    spec = b.spec
    sizes = b.constant(f"{prefix}.qkv_sizes", np.array([spec.q_size, spec.kv_size, spec.kv_size], np.int64))
    q, k, v = b.tape.op_multi_out("Split", [qkv, sizes], {"axis": -1}, num_outputs=3, name=f"{prefix}.split")
    by_head = b.shared("by_head", np.array([0, -1, spec.head_dim], np.int64))

    def normed(x: ir.Value, name: str, size: int) -> ir.Value:
        weight = b.weight(f"{prefix}.{name}.weight")
        if spec.qk_norm_whole:
            return _rms_norm(b, x, weight, f"{prefix}.{name}")
        heads = b.op("Reshape", [x, by_head], f"{prefix}.{name}/heads")
        scaled = _rms_norm(b, heads, weight, f"{prefix}.{name}")
        flat = b.shared(f"{name}.flat", np.array([0, -1, size], np.int64))
        return b.op("Reshape", [scaled, flat], f"{prefix}.{name}/flat")

    return normed(q, "q_norm", spec.q_size), normed(k, "k_norm", spec.kv_size), v


def _mlp(b: Builder, x: ir.Value, layer: int) -> ir.Value:
    """down(activation(gate) · up)."""
    prefix = f"layers.{layer}"
    biases = [f"{prefix}.gate.bias", f"{prefix}.up.bias"] if b.spec.mlp_bias else []
    gate = b.linear(x, MatrixName(layer, "gate"), biases[:1])
    up = b.linear(x, MatrixName(layer, "up"), biases[1:])
    product = b.op("Mul", [_activated(b, gate, prefix), up], f"{prefix}.mlp")
    if turn := b.spec.down_turn:
        width = b.spec.intermediate_size
        product = turned(b, product, f"{prefix}.turned", turn, width, flat=b.flat)
    return b.linear(product, MatrixName(layer, "down"), [f"{prefix}.down.bias"] if b.spec.mlp_bias else [])


def _activated(b: Builder, gate: ir.Value, prefix: str) -> ir.Value:
    if b.spec.activation == "gelu_tanh":
        return b.op("Gelu", [gate], f"{prefix}.gelu", approximate="tanh")
    return b.op("QuickGelu", [gate], f"{prefix}.silu", alpha=1.0)  # with alpha 1 SiLU in one node


def turned(
    b: Builder, x: ir.Value, name: str, turn: BlockRotation, width: int, *, flat: bool = False
) -> ir.Value:
    """x (batch, sequence, width), or (tokens, width) if `flat`, rotated."""
    axes, size = [-1] if flat else [0, 0], turn.size
    groups = [width // size] if turn.across == 1 else [width // size // turn.across, turn.across]
    label = "x".join(map(str, (*axes, *groups, size)))
    shape = b.shared(f"blocks.{label}", np.array([*axes, *groups, size], np.int64))
    x = b.op("Reshape", [x, shape], f"{name}/blocks")
    x = b.op("MatMul", [x, b.shared(f"hadamard.{size}", hadamard(size))], name)
    if turn.across > 1:
        across = b.shared(f"hartley.{turn.across}", hartley(turn.across))
        x = b.op("MatMul", [across, x], f"{name}/across")
    whole = b.shared(f"whole.{len(axes)}.{width}", np.array([*axes, width], np.int64))
    return b.op("Reshape", [x, whole], f"{name}/whole")


def flattened(b: Builder, x: ir.Value, width: int, name: str) -> ir.Value:
    """x (batch, sequence, width) as layers work on it."""
    if not b.flat:
        return x
    shape = b.shared(f"flat.{width}", np.array([-1, width], np.int64))
    return b.op("Reshape", [x, shape], f"{name}.flat")


def typed(name: str, dtype: ir.DataType, *shape: int | str) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
