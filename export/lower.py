"""Lowering: abstract matrices of the graph become the operators of a storage form.

1. Every `edgert::Linear` and `edgert::Embedding` node is replaced; none is left.
2. Each gets initializers of its own, so that one table can be read in two shapes (tied embeddings).
3. The initializers have no bytes yet: `slots` says which piece of which matrix each will point to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from .forms import Form, Piece, Recipe
from .graph import ABSTRACT
from .matrix import Matrix


@dataclass(frozen=True)
class Slot:
    """An initializer waiting for its bytes: piece `piece` of matrix `matrix`."""

    value: ir.Value
    matrix: str
    piece: str


def lower(model: ir.Model, matrices: Mapping[str, Matrix], recipe: Recipe) -> list[Slot]:
    """Replace the abstract nodes in place and return the slots, in graph order. Raises ValueError."""
    slots: list[Slot] = []
    for node in list(model.graph):
        if node.domain == ABSTRACT:
            name = node.attributes.get_string("matrix")
            form = fitted(recipe, name, matrices[name])
            slots += _replace(model.graph, node, name, matrices[name].shape, form)
    return slots


def fitted(recipe: Recipe, name: str, matrix: Matrix) -> Form:
    """The form a matrix takes under a recipe. Raises ValueError naming the matrix."""
    try:
        return recipe.form(name).fitted(matrix.shape[1])
    except ValueError as error:
        raise ValueError(f"matrix '{name}': {error}") from error


def _replace(graph: ir.Graph, node: ir.Node, matrix: str, shape: tuple[int, int], form: Form) -> list[Slot]:
    embeds = node.op_type == "Embedding"
    call, pieces = form.embedding(shape) if embeds else form.linear(shape)
    slots = [_slot(f"{matrix}.{'table' if embeds else 'matrix'}", matrix, piece) for piece in pieces]
    values = [slot.value for slot in slots]
    x, bias = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    inputs: list[ir.Value | None] = [values[0], x, *values[1:]] if embeds else [x, *values]
    if bias is not None and call.bias_input is not None:
        inputs += [None] * (call.bias_input - len(inputs)) + [bias]
        bias = None
    added = [ir.node(call.op_type, inputs, call.attributes, domain=call.domain, name=node.name)]
    if bias is not None:
        added.append(ir.node("Add", [added[0].outputs[0], bias], name=f"{node.name}/bias"))
    output = added[-1].outputs[0]
    ir.convenience.replace_nodes_and_values(graph, node, [node], added, node.outputs, [output])
    return slots


def _slot(label: str, matrix: str, piece: Piece) -> Slot:
    value = ir.Value(
        name=f"{label}.{piece.name}", type=ir.TensorType(piece.dtype), shape=ir.Shape(piece.shape)
    )
    return Slot(value, matrix, piece.name)
