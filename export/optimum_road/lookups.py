"""Lookups: the embedding table becomes a stored matrix, looked up in its form.

Pattern: Gather along axis 0 of a constant (tokens, hidden), by the token ids, cast or reshaped
at most. Other tables, of positions say, are small and stay as they are.
"""

from __future__ import annotations

import onnx_ir as ir

from edgert.bundle import graph_io
from edgert.export.matrix import EMBEDDING

from .report import Report
from .store import Constant, Store

PASSED_THROUGH = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
TABLE_RANK = 2


def look_up(model: ir.Model, store: Store) -> Report:
    """Replace the look-up of tokens in place."""
    report = Report("embedding")
    for node in list(model.graph):
        table = node.inputs[0] if node.op_type == "Gather" else None
        if table is None or table.const_value is None or len(table.const_value.shape) != TABLE_RANK:
            continue
        if table.const_value.dtype != ir.DataType.FLOAT:
            continue
        if not _is_by_tokens(node.inputs[1]) or node.attributes.get_int("axis", 0) != 0:
            report.leave(str(table.name), "a table that isn't looked up by tokens")
            continue
        try:
            form, weights = store.add(str(EMBEDDING), Constant(table.const_value, False), "table")
        except ValueError as error:
            report.leave(str(table.name), str(error))
            continue
        tape = ir.tape.Tape()
        found = form.look_up(tape, _tokens(node), weights)
        put_in_place(model.graph, node, tape, found)
        report.matched.append(str(table.name))
    return report


def put_in_place(graph: ir.Graph, node: ir.Node, tape: ir.tape.Tape, output: ir.Value) -> None:
    """Replace a node by what a tape has recorded; the output keeps its name."""
    for value in tape.initializers:
        graph.register_initializer(value)
    ir.convenience.replace_nodes_and_values(graph, node, [node], tape.nodes, node.outputs, [output])


def _tokens(node: ir.Node) -> ir.Value:
    ids = node.inputs[1]
    if ids is None:
        raise ValueError(f"'{node.name}' looks nothing up")
    return ids


def _is_by_tokens(value: ir.Value | None) -> bool:
    while value is not None and value.name != graph_io.INPUT_IDS:
        node = value.producer()
        value = node.inputs[0] if node is not None and node.op_type in PASSED_THROUGH else None
    return value is not None
