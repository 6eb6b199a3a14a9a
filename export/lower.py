"""Lowering: abstract matrices of the graph become the operators of a storage form.

1. Every `edgert::Linear` and `edgert::Embedding` node is replaced; none is left.
2. Each gets initializers of its own, so that one table can be read in two shapes (tied embeddings).
3. The initializers have no bytes yet: `slots` says which piece of which matrix each will point to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from .forms import Form, Piece, Use, Weights
from .layer import ABSTRACT
from .matrix import Matrix, MatrixName
from .recipe import Recipe


@dataclass(frozen=True)
class Slot:
    """An initializer waiting for its bytes: piece `piece` of matrix `matrix`."""

    value: ir.Value
    matrix: MatrixName
    piece: str
    shape: tuple[int, ...]


def lower(model: ir.Model, matrices: Mapping[MatrixName, Matrix], recipe: Recipe) -> list[Slot]:
    """Replace the abstract nodes in place and return the slots, in graph order. Raises ValueError."""
    slots: list[Slot] = []
    for node in list(model.graph):
        if node.domain == ABSTRACT:
            name = MatrixName.parse(node.attributes.get_string("matrix"))
            form = recipe.fitted(name, matrices[name])
            slots += _replace(model.graph, node, name, matrices[name].shape, form)
    return slots


def _replace(
    graph: ir.Graph, node: ir.Node, matrix: MatrixName, shape: tuple[int, int], form: Form
) -> list[Slot]:
    use: Use = "table" if node.op_type == "Embedding" else "matrix"
    slots = [_slot(f"{matrix}.{use}", matrix, piece) for piece in form.pieces(shape, use)]
    weights = Weights(node.name or str(matrix), shape, tuple(slot.value for slot in slots))
    tape, x = ir.tape.Tape(), node.inputs[0]
    if x is None:
        raise ValueError(f"matrix '{matrix}' has nothing to multiply")
    if use == "table":
        output = form.look_up(tape, x, weights)
    else:
        output = form.multiply(tape, x, weights, node.inputs[1] if len(node.inputs) > 1 else None)
    for value in tape.initializers:
        if known := graph.initializers.get(str(value.name)):  # constants that all matrices of a form read
            ir.convenience.replace_all_uses_with(value, known)
        else:
            graph.register_initializer(value)
    ir.convenience.replace_nodes_and_values(graph, node, [node], tape.nodes, node.outputs, [output])
    return slots


def _slot(label: str, matrix: MatrixName, piece: Piece) -> Slot:
    value = ir.Value(
        name=f"{label}.{piece.name}", type=ir.TensorType(piece.dtype), shape=ir.Shape(piece.shape)
    )
    return Slot(value, matrix, piece.name, piece.shape)
