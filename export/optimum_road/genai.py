"""A bundle's graph as onnxruntime-genai feeds it: a mask of ones, and logits of the last position."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgert.bundle import graph_io
from edgert.export.graph import lengths_of

KIND = "decoder"  # what onnxruntime-genai calls a decoder of no family that it knows


def for_genai(model: ir.Model) -> ir.Model:
    """A copy of a graph with a shared cache, with the inputs of onnxruntime-genai."""
    copy, tape = model.clone(), ir.tape.Tape()
    graph = copy.graph
    mask = ir.Value(
        name=graph_io.ATTENTION_MASK,
        type=ir.TensorType(ir.DataType.INT64),
        shape=ir.Shape(["batch", "total"]),
    )
    last, total = lengths_of(tape, mask)
    wanted = tape.initializer(ir.tensor(np.array([-1], np.int64), name="last"))
    fed = {
        graph_io.SEQLENS_K: last,
        graph_io.TOTAL_SEQUENCE_LENGTH: total,
        graph_io.LOGITS_POSITIONS: wanted,
    }
    for value in [value for value in graph.inputs if value.name in fed]:
        value.replace_all_uses_with(fed[str(value.name)])
        graph.inputs.remove(value)
    graph.inputs.append(mask)
    for value in tape.initializers:
        graph.register_initializer(value)
    graph.insert_before(graph[0], tape.nodes)
    return copy
