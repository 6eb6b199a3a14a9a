"""The decoder as an ONNX graph: embedding → L layers → norm → head. `layer.py` has the layers.

Matrices are left abstract: `edgert::Linear` and `edgert::Embedding` nodes name the matrix they read, and
`lower.py` replaces them by the operators of a storage form. Everything else is final.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir

from edgert.bundle import graph_io
from edgert.bundle.graph_io import FP32, KVKind

from .checkpoint import FloatArray
from .checkpoint.rope import Rope
from .checkpoint.spec import ModelSpec
from .layer import (
    ABSTRACT,
    MICROSOFT,
    Builder,
    KVScales,
    LayerCache,
    LayerInputs,
    Positions,
    Vectors,
    flattened,
    layer_nodes,
    norm,
    turned,
    typed,
)
from .matrix import EMBEDDING, MatrixName, head_name

OPSETS = {"": 21, MICROSOFT: 1}
OUTPUT = "output"  # of a layer

# Who feeds the graph: edgert passes sequence lengths and the wanted logit positions directly;
# onnxruntime-genai passes an attention mask and wants the last position.
Feeds = Literal["edgert", "genai"]

NOTHING_ADAPTED: Mapping[MatrixName, tuple[int, int]] = {}


def build(
    spec: ModelSpec,
    vector: Vectors,
    max_context: int,
    feeds: Feeds = "edgert",
    *,
    kv: KVKind = FP32,
    scales: Sequence[KVScales] | None = None,
    adapted: Mapping[MatrixName, tuple[int, int]] = NOTHING_ADAPTED,
    flat: bool = False,
) -> ir.Model:
    """The graph of a model; `vector` reads its norms and biases by name. `kv`: how keys and values
    are cached, with the `scales` of each layer if it is a kind that has some. `adapted`: rows and columns of
    the matrices that adapters may change. `flat`: as in Builder.
    """
    b = Builder(spec, vector, adapted, flat=flat)
    inputs = _inputs(feeds)
    positions = _positions(b, inputs, max_context, feeds)
    caches = [_cache(spec, layer, kv, scales[layer] if scales else None) for layer in range(spec.num_layers)]

    hidden = _look_up(b, inputs[graph_io.INPUT_IDS])
    hidden = flattened(b, hidden, spec.hidden_size, "embedding")
    residual: ir.Value | None = None
    for layer, cache in enumerate(caches):
        hidden, residual = layer_nodes(b, hidden, residual, LayerInputs(layer, positions, cache))
    normed, _ = norm(b, hidden, residual, "final_norm")
    if positions.shape is not None:
        normed = b.op("Reshape", [normed, positions.shape], "final_norm/sequences")
    logits = _head(b, normed, inputs)

    graph = ir.Graph(
        [*inputs.values(), *(value for cache in caches for value in cache.past), *b.adapter_inputs],
        [logits, *(value for cache in caches for value in cache.present)],
        nodes=b.tape.nodes,
        initializers=b.tape.initializers,
        opset_imports=OPSETS,
        name="decoder",
    )
    return ir.Model(graph, ir_version=10, producer_name="edgert")


@dataclass
class WeightlessBuilder(Builder):
    """Builds a graph whose norms and biases are inputs rather than initializers."""

    inputs: list[ir.Value] = field(default_factory=list)

    def weight(self, name: str) -> ir.Value:
        return self._input(name, [name])

    def bias(self, matrix: MatrixName, names: list[str]) -> ir.Value:
        return self._input(f"{matrix}.bias", names)

    def _input(self, name: str, stacked: list[str]) -> ir.Value:
        shapes = self.spec.tensors()
        self.inputs.append(typed(name, ir.DataType.FLOAT, sum(shapes[part][0] for part in stacked)))
        return self.inputs[-1]


def build_layer(spec: ModelSpec, layer: int, max_context: int) -> ir.Model:
    """One layer from hidden states to hidden states, its norms and biases left as inputs.

    Besides `output` and the present keys and values, what every matrix multiplies is an output, named
    `<matrix>.input`.
    """
    b = WeightlessBuilder(spec, _no_vectors)
    hidden = typed("hidden", ir.DataType.FLOAT, "batch", "sequence", spec.hidden_size)
    lengths = _lengths()
    positions = Positions(*lengths, _rope_tables(b, {spec.layer_rope(layer)}, max_context))
    cache = _cache(spec, layer)
    mlp, residual = layer_nodes(b, hidden, None, LayerInputs(layer, positions, cache))
    output = b.op("Add", [mlp, residual], OUTPUT)
    taps = []
    for node in b.tape.nodes:
        if node.op_type == "Linear":
            name = f"{node.attributes.get_string('matrix')}.input"
            taps.append(b.op("Identity", [node.inputs[0]], name))
            taps[-1].name = name
    output.name = OUTPUT
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


def _inputs(feeds: Feeds) -> dict[str, ir.Value]:
    values = [typed(graph_io.INPUT_IDS, ir.DataType.INT64, "batch", "sequence")]
    if feeds == "genai":
        values.append(typed(graph_io.ATTENTION_MASK, ir.DataType.INT64, "batch", "total"))
    else:
        values += [*_lengths(), typed(graph_io.LOGITS_POSITIONS, ir.DataType.INT64, "wanted")]
    return {str(value.name): value for value in values}


def _lengths() -> tuple[ir.Value, ir.Value]:
    """Last index and length of the sequence, as edgert feeds them."""
    last = typed(graph_io.SEQLENS_K, ir.DataType.INT32, "batch")
    return last, typed(graph_io.TOTAL_SEQUENCE_LENGTH, ir.DataType.INT32)


def _cache(spec: ModelSpec, layer: int, kv: KVKind = FP32, scales: KVScales | None = None) -> LayerCache:
    shape = ("batch", spec.num_kv_heads, "context", spec.head_dim)
    dtype = ir.DataType.from_numpy(np.dtype(kv.dtype))

    def pair(name: Callable[[int, str], str]) -> tuple[ir.Value, ir.Value]:
        key, value = (typed(name(layer, part), dtype, *shape) for part in graph_io.PARTS)
        return key, value

    return LayerCache(pair(graph_io.past), pair(graph_io.present), kv, scales)


def _positions(b: Builder, inputs: Mapping[str, ir.Value], max_context: int, feeds: Feeds) -> Positions:
    ropes = {b.spec.layer_rope(layer) for layer in range(b.spec.num_layers)}
    tables = _rope_tables(b, ropes, max_context)
    shape = None
    if b.flat:
        rest = b.constant("rest", np.array([-1], np.int64))
        axes = b.op("Shape", [inputs[graph_io.INPUT_IDS]], "ids/shape")
        shape = b.op("Concat", [axes, rest], "sequences", axis=0)
    if feeds == "edgert":
        return Positions(inputs[graph_io.SEQLENS_K], inputs[graph_io.TOTAL_SEQUENCE_LENGTH], tables, shape)
    return Positions(*lengths_of(b.tape, inputs[graph_io.ATTENTION_MASK]), tables, shape)


def lengths_of(tape: ir.tape.Tape, mask: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Last index and length of the sequence, from onnxruntime-genai's mask of ones, (batch, total)."""
    last_axis, one = (
        tape.initializer(ir.tensor(np.array(number, np.int64), name=name))
        for name, number in (("axis", [1]), ("one", 1))
    )
    int32 = {"to": ir.DataType.INT32}
    length = tape.op("ReduceSum", [mask, last_axis], {"keepdims": 0}, name="mask/length")
    last = tape.op("Cast", [tape.op("Sub", [length, one], name="mask/last")], int32, name="mask/seqlens_k")
    shape = tape.op("Shape", [mask], {"start": 1, "end": 2}, name="mask/shape")
    total = tape.op("Cast", [tape.op("Squeeze", [shape], name="mask/total64")], int32, name="mask/total")
    return last, total


def _rope_tables(
    b: Builder, used: Set[Rope | None], max_context: int
) -> dict[Rope, tuple[ir.Value, ir.Value]]:
    """Cosines and sines of the ropes that layers use."""
    tables = {}
    for name, rope in (("rope", b.spec.rope), ("local_rope", b.spec.local_rope)):
        if rope is not None and rope in used and rope not in tables:
            cos, sin = rope.tables(max_context)
            tables[rope] = b.constant(f"{name}.cos", cos), b.constant(f"{name}.sin", sin)
    return tables


def _look_up(b: Builder, ids: ir.Value) -> ir.Value:
    """Hidden states before the first layer. Rows of a tied table are turned for the head: turned back."""
    spec = b.spec
    found = b.tape.op("Embedding", [ids], {"matrix": str(EMBEDDING)}, domain=ABSTRACT)
    if spec.read_turn and spec.tied_embeddings:
        found = turned(b, found, "embedding/turned", spec.read_turn, spec.hidden_size)
    return found


def _head(b: Builder, x: ir.Value, inputs: Mapping[str, ir.Value]) -> ir.Value:
    """Logits (batch, wanted, vocab) of the wanted positions only: the head is the largest matrix."""
    wanted = inputs.get(graph_io.LOGITS_POSITIONS) or b.constant("last", np.array([-1], np.int64))
    picked = b.op("Gather", [x, wanted], "wanted", axis=1)
    if b.spec.head_mix:
        picked = b.op("MatMul", [picked, b.weight("head_mix.weight")], "head_mix")
    if b.spec.read_turn:
        picked = turned(b, picked, "head/turned", b.spec.read_turn, b.spec.hidden_size)
    matrix = str(head_name(b.spec))
    # onnxruntime-genai sets aside a row per token unless it is told that there is one.
    rows = "wanted" if graph_io.LOGITS_POSITIONS in inputs else 1
    logits = typed(graph_io.LOGITS, ir.DataType.FLOAT, "batch", rows, b.spec.vocab_size)
    b.tape.op("Linear", [picked], {"matrix": matrix}, domain=ABSTRACT, name="head", output=logits)
    return logits
