"""The decoder as an ONNX graph in ONNX Runtime's fast operators.

Matrices are left abstract: `edgert::Linear` and `edgert::Embedding` nodes name the matrix they read, and
`lower.py` replaces them by the operators of a storage form. Everything else is final:

    embedding → L × (norm → qkv → attention → o → norm → gate, up → SiLU · → down) → norm → head

GroupQueryAttention rotates and appends to the KV cache itself (past and present share one buffer);
SkipSimplifiedLayerNormalization adds the residual and normalises in one node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from .checkpoint import FloatArray
from .rotation import hadamard
from .spec import ModelSpec

ABSTRACT = "edgert"
MICROSOFT = "com.microsoft"
OPSETS = {"": 21, MICROSOFT: 1}

# Who feeds the graph: edgert passes sequence lengths and the wanted logit positions directly;
# onnxruntime-genai passes an attention mask and wants the last position.
Feeds = Literal["edgert", "genai"]
Vectors = Callable[[str], FloatArray]


@dataclass
class Builder:
    """Records nodes in order; one for each graph."""

    spec: ModelSpec
    vector: Vectors
    tape: ir.tape.Tape = field(default_factory=ir.tape.Tape)
    constants: dict[str, ir.Value] = field(default_factory=dict)

    def op(self, kind: str, inputs: list[ir.Value | None], name: str, **attributes: Any) -> ir.Value:
        """One ai.onnx or com.microsoft node with one output."""
        domain = MICROSOFT if kind in _MICROSOFT_OPS else ""
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

    def bias(self, matrix: str, names: list[str]) -> ir.Value:
        """The biases of a matrix's parts, stacked."""
        return self.constant(f"{matrix}.bias", np.concatenate([self.vector(name) for name in names]))

    def linear(self, x: ir.Value, matrix: str, bias: list[str]) -> ir.Value:
        """x (..., columns) times a matrix, transposed, plus the biases of its parts stacked."""
        inputs: list[ir.Value | None] = [x]
        if bias:
            inputs.append(self.bias(matrix, bias))
        return self.tape.op("Linear", inputs, {"matrix": matrix}, domain=ABSTRACT, name=matrix)


_MICROSOFT_OPS = ("GroupQueryAttention", "SkipSimplifiedLayerNormalization", "QuickGelu")


@dataclass(frozen=True)
class Positions:
    """What GroupQueryAttention wants to know: last index and length of the sequence, and the rope tables."""

    seqlens_k: ir.Value  # int32 (batch,): tokens in the cache after this run, minus one
    total: ir.Value  # int32 scalar: the same, not minus one
    cos: ir.Value
    sin: ir.Value


@dataclass(frozen=True)
class LayerCache:
    """One layer's key and value before and after this run; (batch, KV heads, context, head_dim) each."""

    past: tuple[ir.Value, ir.Value]
    present: tuple[ir.Value, ir.Value]


@dataclass(frozen=True)
class Place:
    """A layer's number, and where it finds positions and its cache."""

    layer: int
    positions: Positions
    cache: LayerCache


def build(spec: ModelSpec, vector: Vectors, max_context: int, feeds: Feeds = "edgert") -> ir.Model:
    """The graph of a model; `vector` reads its norms and biases by name."""
    b = Builder(spec, vector)
    inputs = _inputs(feeds)
    positions = _positions(b, inputs, max_context, feeds)
    caches = [_cache(spec, layer) for layer in range(spec.num_layers)]

    hidden = b.tape.op("Embedding", [inputs["input_ids"]], {"matrix": "embedding"}, domain=ABSTRACT)
    residual: ir.Value | None = None
    for layer, cache in enumerate(caches):
        hidden, residual = _layer(b, hidden, residual, Place(layer, positions, cache))
    normed, _ = _norm(b, hidden, residual, "final_norm")
    logits = _head(b, normed, inputs)

    graph = ir.Graph(
        [*inputs.values(), *(value for cache in caches for value in cache.past)],
        [logits, *(value for cache in caches for value in cache.present)],
        nodes=b.tape.nodes,
        initializers=b.tape.initializers,
        opset_imports=OPSETS,
        name="decoder",
    )
    return ir.Model(graph, ir_version=10, producer_name="edgert")


@dataclass
class Open(Builder):
    """Builds a graph whose norms and biases are inputs rather than initializers."""

    inputs: list[ir.Value] = field(default_factory=list)

    def weight(self, name: str) -> ir.Value:
        return self._input(name)

    def bias(self, matrix: str, names: list[str]) -> ir.Value:
        return self._input(f"{matrix}.bias")

    def _input(self, name: str) -> ir.Value:
        self.inputs.append(_value(name, ir.DataType.FLOAT, "size"))
        return self.inputs[-1]


def build_layer(spec: ModelSpec, layer: int, max_context: int) -> ir.Model:
    """One layer from hidden states to hidden states, its norms and biases left as inputs.

    Besides `output` and the present keys and values, what every matrix multiplies is an output, named
    `<matrix>.input`.
    """
    b = Open(spec, _no_vectors)
    hidden = _value("hidden", ir.DataType.FLOAT, "batch", "sequence", spec.hidden_size)
    lengths = _value("seqlens_k", ir.DataType.INT32, "batch"), _value("total", ir.DataType.INT32)
    tables = spec.rope.tables(max_context)
    positions = Positions(*lengths, b.constant("rope.cos", tables[0]), b.constant("rope.sin", tables[1]))
    cache = _cache(spec, layer)
    mlp, residual = _layer(b, hidden, None, Place(layer, positions, cache))
    output = b.op("Add", [mlp, residual], "output")
    taps = []
    for node in b.tape.nodes:
        if node.op_type == "Linear":
            name = f"{node.attributes.get_string('matrix')}.input"
            taps.append(b.op("Identity", [node.inputs[0]], name))
            taps[-1].name = name
    output.name = "output"
    return ir.Model(
        ir.Graph(
            [hidden, *lengths, *cache.past, *b.inputs],
            [output, *cache.present, *taps],
            nodes=b.tape.nodes,
            initializers=b.tape.initializers,
            opset_imports=OPSETS,
            name="layer",
        ),
        ir_version=10,
    )


def _no_vectors(name: str) -> FloatArray:
    raise KeyError(name)


def _value(name: str, dtype: ir.DataType, *shape: int | str) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def _inputs(feeds: Feeds) -> dict[str, ir.Value]:
    values = [_value("input_ids", ir.DataType.INT64, "batch", "sequence")]
    if feeds == "genai":
        values.append(_value("attention_mask", ir.DataType.INT64, "batch", "total"))
    else:
        values.append(_value("seqlens_k", ir.DataType.INT32, "batch"))
        values.append(_value("total_sequence_length", ir.DataType.INT32))
        values.append(_value("logits_positions", ir.DataType.INT64, "wanted"))
    return {str(value.name): value for value in values}


def _cache(spec: ModelSpec, layer: int) -> LayerCache:
    shape = ("batch", spec.num_kv_heads, "context", spec.head_dim)

    def pair(name: str) -> tuple[ir.Value, ir.Value]:
        key, value = (
            _value(f"{name}.{layer}.{kind}", ir.DataType.FLOAT, *shape) for kind in ("key", "value")
        )
        return key, value

    return LayerCache(pair("past_key_values"), pair("present"))


def _positions(b: Builder, inputs: Mapping[str, ir.Value], max_context: int, feeds: Feeds) -> Positions:
    cos, sin = b.spec.rope.tables(max_context)
    tables = b.constant("rope.cos", cos), b.constant("rope.sin", sin)
    if feeds == "edgert":
        return Positions(inputs["seqlens_k"], inputs["total_sequence_length"], *tables)
    mask = inputs["attention_mask"]
    last_axis, one = b.constant("axis", np.array([1], np.int64)), b.constant("one", np.array(1, np.int64))
    length = b.op("ReduceSum", [mask, last_axis], "mask/length", keepdims=0)
    last = b.op("Sub", [length, one], "mask/last")
    seqlens_k = b.op("Cast", [last], "mask/seqlens_k", to=ir.DataType.INT32)
    shape = b.op("Shape", [mask], "mask/shape", start=1, end=2)
    squeezed = b.op("Squeeze", [shape], "mask/total64")
    total = b.op("Cast", [squeezed], "mask/total", to=ir.DataType.INT32)
    return Positions(seqlens_k, total, *tables)


def _norm(b: Builder, x: ir.Value, residual: ir.Value | None, name: str) -> tuple[ir.Value, ir.Value]:
    """RMSNorm of x + residual, and that sum as the next residual."""
    weight = b.weight(f"{name}.weight")
    if residual is None:
        normed = b.op(
            "SimplifiedLayerNormalization", [x, weight], name, axis=-1, epsilon=b.spec.norm_eps, stash_type=1
        )
        return normed, x
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


def _layer(b: Builder, hidden: ir.Value, residual: ir.Value | None, at: Place) -> tuple[ir.Value, ir.Value]:
    """What a layer adds to the residual stream, and the stream before that is added."""
    normed, residual = _norm(b, hidden, residual, f"layers.{at.layer}.attn_norm")
    attended = _attention(b, normed, at)
    normed, residual = _norm(b, attended, residual, f"layers.{at.layer}.mlp_norm")
    return _mlp(b, normed, at.layer), residual


def _attention(b: Builder, x: ir.Value, at: Place) -> ir.Value:
    spec, layer, positions, cache = b.spec, at.layer, at.positions, at.cache
    prefix = f"layers.{layer}"
    biases = [f"{prefix}.{part}.bias" for part in "qkv"] if spec.qkv_bias else []
    qkv = b.linear(x, f"{prefix}.qkv", biases)
    heads = _normed_heads(b, qkv, prefix) if spec.qk_norm else (qkv, None, None)
    rotates = spec.rope_layers[layer]
    attributes: dict[str, Any] = {
        "num_heads": spec.num_heads,
        "kv_num_heads": spec.num_kv_heads,
        "do_rotary": int(rotates),
        "local_window_size": spec.windows[layer] or -1,
    }
    tables = [positions.cos, positions.sin] if rotates else []
    attended = ir.Value(name=f"{prefix}.attention")
    b.tape.op_multi_out(
        "GroupQueryAttention",
        [*heads, *cache.past, positions.seqlens_k, positions.total, *tables],
        attributes,
        outputs=[attended, *cache.present],
        domain=MICROSOFT,
        name=f"{prefix}.attention",
    )
    return b.linear(attended, f"{prefix}.o", [f"{prefix}.o.bias"] if spec.o_bias else [])


def _normed_heads(b: Builder, qkv: ir.Value, prefix: str) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Qwen3: an RMSNorm over each head of q and of k. (GQA's own q/k norm has no CPU kernel.)"""
    spec = b.spec
    sizes = b.constant(f"{prefix}.qkv_sizes", np.array([spec.q_size, spec.kv_size, spec.kv_size], np.int64))
    q, k, v = b.tape.op_multi_out("Split", [qkv, sizes], {"axis": -1}, num_outputs=3, name=f"{prefix}.split")
    by_head = b.constant(f"{prefix}.by_head", np.array([0, -1, spec.head_dim], np.int64))

    def normed(x: ir.Value, name: str, size: int) -> ir.Value:
        heads = b.op("Reshape", [x, by_head], f"{prefix}.{name}/heads")
        weight = b.weight(f"{prefix}.{name}.weight")
        scaled = b.op(
            "SimplifiedLayerNormalization",
            [heads, weight],
            f"{prefix}.{name}",
            axis=-1,
            epsilon=spec.norm_eps,
            stash_type=1,
        )
        flat = b.constant(f"{prefix}.{name}.flat", np.array([0, -1, size], np.int64))
        return b.op("Reshape", [scaled, flat], f"{prefix}.{name}/flat")

    return normed(q, "q_norm", spec.q_size), normed(k, "k_norm", spec.kv_size), v


def _mlp(b: Builder, x: ir.Value, layer: int) -> ir.Value:
    """down(SiLU(gate) · up); QuickGelu with alpha 1 is SiLU in one node."""
    prefix = f"layers.{layer}"
    biases = [f"{prefix}.gate.bias", f"{prefix}.up.bias"] if b.spec.mlp_bias else []
    gate = b.linear(x, f"{prefix}.gate", biases[:1])
    up = b.linear(x, f"{prefix}.up", biases[1:])
    active = b.op("QuickGelu", [gate], f"{prefix}.silu", alpha=1.0)
    product = b.op("Mul", [active, up], f"{prefix}.mlp")
    if b.spec.down_block:
        product = _in_blocks(b, product, f"{prefix}.hadamard")
    return b.linear(product, f"{prefix}.down", [f"{prefix}.down.bias"] if b.spec.mlp_bias else [])


def _in_blocks(b: Builder, x: ir.Value, name: str) -> ir.Value:
    """x (batch, sequence, n) with every block of `down_block` channels times a Hadamard matrix."""
    size = b.spec.down_block
    blocks = b.op("Reshape", [x, b.shared("blocks", np.array([0, 0, -1, size], np.int64))], f"{name}/blocks")
    turned = b.op("MatMul", [blocks, b.shared("hadamard", hadamard(size))], name)
    whole = b.shared("whole", np.array([0, 0, b.spec.intermediate_size], np.int64))
    return b.op("Reshape", [turned, whole], f"{name}/flat")


def _head(b: Builder, x: ir.Value, inputs: Mapping[str, ir.Value]) -> ir.Value:
    """Logits (batch, wanted, vocab) of the wanted positions only: the head is the largest matrix."""
    wanted = inputs.get("logits_positions") or b.constant("last", np.array([-1], np.int64))
    picked = b.op("Gather", [x, wanted], "wanted", axis=1)
    if b.spec.head_mix:
        picked = b.op("MatMul", [picked, b.weight("head_mix.weight")], "head_mix")
    matrix = "embedding" if b.spec.tied_embeddings else "head"
    logits = _value("logits", ir.DataType.FLOAT, "batch", "wanted", b.spec.vocab_size)
    b.tape.op("Linear", [picked], {"matrix": matrix}, domain=ABSTRACT, name="head", output=logits)
    return logits
