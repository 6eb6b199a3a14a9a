"""Anchors: where a traced graph computes a layer's attention. Read from its edges alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from edgert.bundle import graph_io

# What keys, scores and values may pass on their way.
LAYOUT = ("Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
SCALED = (*LAYOUT, "Add", "Div", "Mul", "Sub", "Tanh", "Where")
FARTHEST = 60  # nodes looked at before a query, key or value
PROJECTED = ("MatMul", "Gemm", "LayerNormalization")  # nothing before these is looked at
CONCAT_INPUTS = 2


@dataclass(frozen=True)
class Anchors:
    """Values of one layer."""

    key: ir.Value  # new ones
    value: ir.Value
    keys: ir.Value  # of the whole cache
    values: ir.Value
    query: ir.Value  # what meets the keys
    scores: ir.Value  # what Softmax takes
    tanh: ir.Value | None  # on the way to them, for soft caps
    probabilities: ir.Value
    attended: tuple[ir.Value, ...]  # the product with values, and other layouts of it


def find(graph: ir.Graph, layer: int) -> Anchors | str:
    """The anchors of a layer, or why they can't be found."""
    key, keys = _appended(graph, layer, "key")
    value, values = _appended(graph, layer, "value")
    if key is None or value is None or keys is None or values is None:
        return "its cache isn't past and new tokens joined"
    scored = _follow(keys, (*LAYOUT, "Mul", "Div"), "MatMul")
    weighed = _follow(values, LAYOUT, "MatMul")
    if scored is None or weighed is None:
        return "its keys or values don't come to a product"
    softmax = _follow(scored.outputs[0], SCALED, "Softmax")
    if softmax is None or softmax.inputs[0] is None:
        return "no Softmax follows the product with its keys"
    query = next(v for v in scored.inputs if v is not None and not _reaches(v, keys))
    return Anchors(
        key=key,
        value=value,
        keys=keys,
        values=values,
        query=query,
        scores=softmax.inputs[0],
        tanh=_between(softmax.inputs[0], scored.outputs[0], "Tanh"),
        probabilities=softmax.outputs[0],
        attended=tuple(_layouts(weighed.outputs[0])),
    )


def before(value: ir.Value) -> list[ir.Value]:
    """The value and the floats it is made of, back to the projection; the nearest first."""
    found: list[ir.Value] = []
    seen, queue = {value}, [value]
    while queue and len(found) < FARTHEST:
        current = queue.pop(0)
        found.append(current)
        node = current.producer()
        if node is None or node.op_type in PROJECTED:
            continue
        for source in node.inputs:
            if source is not None and source not in seen and source.producer() is not None:
                seen.add(source)
                queue.append(source)
    return found


def tables_before(value: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
    """Cosines and sines that a value is made with."""
    nodes = list(_nodes_before(value))
    cosines, sines = ([n.outputs[0] for n in nodes if n.op_type == kind] for kind in ("Cos", "Sin"))
    return cosines, sines


def _nodes_before(value: ir.Value) -> Iterator[ir.Node]:
    """All nodes that a value is made by; not those before a projection."""
    seen: set[ir.Node] = set()
    queue = [value]
    while queue:
        node = queue.pop().producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        if node.op_type not in PROJECTED:
            queue += [source for source in node.inputs if source is not None]


def _appended(graph: ir.Graph, layer: int, part: str) -> tuple[ir.Value | None, ir.Value | None]:
    """The new keys or values, and all of them."""
    present = next(v for v in graph.outputs if v.name == graph_io.present(layer, part))
    node = present.producer()
    while node is not None and node.op_type in ("Cast", "Identity"):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None or node.op_type != "Concat" or len(node.inputs) != CONCAT_INPUTS:
        return None, None
    past, new = node.inputs
    if past is None or past.name != graph_io.past(layer, part):
        return None, None
    return new, node.outputs[0]


def _follow(value: ir.Value, through: tuple[str, ...], wanted: str) -> ir.Node | None:
    """The first node of a kind that a value comes to, through nodes of others."""
    seen, queue = {value}, [value]
    made = value.producer()
    while queue and made is not None:
        for node in queue.pop(0).consumers():
            if node.graph is not made.graph:
                continue  # inside of an If or a Loop
            if node.op_type == wanted:
                return node
            if node.op_type in through and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                queue.append(node.outputs[0])
    return None


def _layouts(value: ir.Value) -> Iterator[ir.Value]:
    """A value and those that differ from it in layout alone."""
    while True:
        yield value
        following = [node for node in value.consumers() if node.op_type in LAYOUT]
        if not following:
            return
        value = following[0].outputs[0]


def _reaches(value: ir.Value, source: ir.Value) -> bool:
    return value is source or any(source in node.inputs for node in _nodes_before(value))


def _between(end: ir.Value, start: ir.Value, kind: str) -> ir.Value | None:
    """What a node of a kind gives between two values, by way of elementwise nodes."""
    queue = [end]
    while queue:
        value = queue.pop()
        node = value.producer()
        if value is start or node is None or node.op_type not in SCALED:
            continue
        if node.op_type == kind:
            return value
        queue += [source for source in node.inputs if source is not None]
    return None
