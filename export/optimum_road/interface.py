"""Interface: a traced graph takes and gives what edgert's runtime feeds and reads, in shapes of one sequence.

1. Inputs and outputs are checked and get edgert's names of dimensions; a batch is one sequence.
2. An input says whose logits are wanted. Hidden states are gathered before the head where nothing but
   elementwise operators with small constants lies behind it, else the logits themselves.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import onnx_ir as ir

from edgert.bundle import graph_io

from .report import Report

FED = (graph_io.INPUT_IDS, graph_io.ATTENTION_MASK, graph_io.POSITION_IDS)
ELEMENTWISE = ("Add", "Cast", "Div", "Identity", "Mul", "Tanh")  # what may follow the head: bias, soft cap
HIDDEN_RANK = 3


@dataclass(frozen=True)
class Cache:
    """Keys and values as a graph takes them."""

    num_layers: int
    num_kv_heads: int
    head_dim: int


def settle(model: ir.Model) -> tuple[Cache, Report]:
    """Give a graph edgert's inputs and outputs. Raises ValueError for a cache of another shape."""
    report = Report("inputs and outputs")
    cache = _cache(model.graph)
    for value in model.graph.inputs:
        value.shape = ir.Shape(_dims(str(value.name), cache))
        report.matched.append(str(value.name))
    outputs = {str(value.name): value for value in model.graph.outputs}
    for name in sorted(outputs.keys() - {graph_io.LOGITS}):
        outputs[name].shape = ir.Shape(_dims(name, cache))
    _gather_wanted(model, outputs[graph_io.LOGITS], report)
    return cache, report


def _cache(graph: ir.Graph) -> Cache:
    inputs = {str(value.name): value for value in graph.inputs}
    outputs = {str(value.name) for value in graph.outputs}
    layers = next(n for n in itertools.count() if graph_io.past(n, graph_io.PARTS[0]) not in inputs)
    pairs = [(layer, part) for layer in range(layers) for part in graph_io.PARTS]
    past = {graph_io.past(*pair) for pair in pairs}
    unknown = sorted(inputs.keys() - past - set(FED))
    missing = sorted(({graph_io.present(*pair) for pair in pairs} | {graph_io.LOGITS}) - outputs)
    if not layers or unknown or missing:
        named = ", ".join([*unknown, *missing][:3]) or "no keys and values"
        raise ValueError(f"the traced graph has inputs or outputs that edgert doesn't know ({named})")
    shapes = {_sizes(inputs[name]) for name in past}
    if len(shapes) != 1 or None in shapes.pop():
        raise ValueError(
            "its layers don't cache keys and values as (batch, heads, tokens, head_dim), all alike"
        )
    heads, head_dim = _sizes(inputs[graph_io.past(0, "key")])
    return Cache(layers, heads or 0, head_dim or 0)


def _sizes(value: ir.Value) -> tuple[int | None, int | None]:
    """Heads and size of each, None where the graph leaves it open."""
    shape = value.shape
    if shape is None or len(shape) != 4:
        return None, None
    return _fixed(shape[1]), _fixed(shape[3])


def _fixed(dim: int | ir.SymbolicDim) -> int | None:
    return dim if isinstance(dim, int) else None


def _dims(name: str, cache: Cache) -> tuple[int | str, ...]:
    if match := re.match(r"(past|present)", name):
        length = "past" if match[1] == "past" else "total"
        return 1, cache.num_kv_heads, length, cache.head_dim
    return 1, "total" if name == graph_io.ATTENTION_MASK else "sequence"


def _gather_wanted(model: ir.Model, logits: ir.Value, report: Report) -> None:
    graph, head = model.graph, head_of(logits)
    wanted = ir.Value(
        name=graph_io.LOGITS_POSITIONS, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["wanted"])
    )
    graph.inputs.append(wanted)
    if head is not None and head.inputs[0] is not None:
        picked = ir.node("Gather", [head.inputs[0], wanted], {"axis": 1}, name="wanted")
        graph.insert_before(head, picked)
        head.replace_input_with(0, picked.outputs[0])
        report.matched.append(graph_io.LOGITS_POSITIONS)
    else:
        _gather_logits(graph, logits, wanted)
        report.leave(graph_io.LOGITS_POSITIONS, "no head recognized: all logits are computed, then gathered")
    vocab = logits.shape[2] if logits.shape is not None else None
    graph.outputs[[str(value.name) for value in graph.outputs].index(graph_io.LOGITS)].shape = ir.Shape(
        (1, "wanted", vocab)
    )


def _gather_logits(graph: ir.Graph, logits: ir.Value, wanted: ir.Value) -> None:
    place = [str(value.name) for value in graph.outputs].index(graph_io.LOGITS)
    logits.name = f"{graph_io.LOGITS}/all"
    picked = ir.node("Gather", [logits, wanted], {"axis": 1}, name="wanted")
    picked.outputs[0].name, picked.outputs[0].type = graph_io.LOGITS, logits.type
    graph.append(picked)
    graph.outputs[place] = picked.outputs[0]


def head_of(logits: ir.Value) -> ir.Node | None:
    """The product that makes logits; None if something else than small elementwise steps lies between."""
    node = logits.producer()
    while node is not None and node.op_type in ELEMENTWISE:
        steps = [value for value in node.inputs if value is not None and not _is_small(value)]
        if len(steps) != 1:
            return None
        node = steps[0].producer()
    return node if node is not None and node.op_type == "MatMul" else None


def _is_small(value: ir.Value) -> bool:
    """A constant that is the same for every position: a number or a vector."""
    return value.const_value is not None and len(value.const_value.shape) <= 1
