"""Positions: values of a traced graph that are the tokens' positions, found from numbers.

Graphs compute them from the attention mask or from the length of the past.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgert.bundle import graph_io

from .probe import Array, Probe

RUNS = ((5, 7), (8, 3))  # tokens in the cache, and tokens of the run
COUNTING = (
    *("Add", "Cast", "Concat", "CumSum", "Gather", "Mul", "Range", "Reshape", "Shape", "Slice"),
    *("Squeeze", "Sub", "Unsqueeze"),
)


def offsets(probe: Probe) -> dict[ir.Value, int]:
    """Values (batch, tokens) that are positions plus a number, and the number."""
    counted = list(_counted(probe.model.graph))
    if not counted:
        return {}
    names = [str(value.name) for value in counted]
    runs = [(probe.run(names, probe.fed([past], tokens)), (past, tokens)) for past, tokens in RUNS]
    found = {}
    for value in counted:
        away = {_offset(values[str(value.name)], *run) for values, run in runs}
        number = away.pop()
        if number is not None and not away:
            found[value] = number
    return found


def _counted(graph: ir.Graph) -> Iterator[ir.Value]:
    """Values made by counting from the mask and the shapes of the past."""
    past = {graph_io.past(layer, part) for layer in range(len(graph.inputs)) for part in graph_io.PARTS}
    seen: set[ir.Value] = set()
    queue = [value for value in graph.inputs if value.name == graph_io.ATTENTION_MASK]
    queue += [
        node.outputs[0]
        for value in graph.inputs
        if value.name in past
        for node in value.consumers()
        if node.op_type == "Shape"
    ]
    while queue:
        for node in queue.pop().consumers():
            if node.op_type in COUNTING and node.graph is graph and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                queue.append(node.outputs[0])
                yield node.outputs[0]


def _offset(values: Array, past: int, tokens: int) -> int | None:
    """How far values are from the positions; None if they are something else."""
    if values.shape != (1, tokens) or values.dtype != np.int64:
        return None
    away = set((values[0] - np.arange(past, past + tokens)).tolist())
    return int(away.pop()) if len(away) == 1 else None
