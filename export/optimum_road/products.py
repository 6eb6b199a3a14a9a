"""Products: MatMul and Gemm by constant weights become stored matrices, multiplied by in their form.

Pattern: the second input is a constant matrix, or a Transpose of one; of Gemm, alpha and beta are 1 and the
first input isn't transposed. A bias that Gemm adds goes along; one that an Add adds stays there.
"""

from __future__ import annotations

import onnx_ir as ir

from edgert.bundle import graph_io
from edgert.export.forms import Form, Weights
from edgert.export.matrix import MatrixName

from .interface import head_of
from .lookups import put_in_place
from .report import Report
from .store import Constant, Store

HEAD = str(MatrixName(None, "head"))
MATRIX_RANK = 2


def store_products(model: ir.Model, store: Store) -> Report:
    """Replace products in place, in graph order."""
    report = Report("matrices")
    head = head_of(next(value for value in model.graph.outputs if value.name == graph_io.LOGITS))
    for node in list(model.graph):
        if node.op_type not in ("MatMul", "Gemm") or node.domain:
            continue
        found = _weights(node)
        if isinstance(found, str):
            if found:
                report.leave(_name(node), found)
            continue
        name = HEAD if node is head else _name(node)
        try:
            form, weights = store.add(name, found, "matrix")
        except ValueError as error:
            report.leave(name, str(error))
            continue
        tape = ir.tape.Tape()
        output = _multiply(tape, node, form, weights)
        put_in_place(model.graph, node, tape, output)
        report.matched.append(name)
    return report


def _weights(node: ir.Node) -> Constant | str:
    """The constant that a node multiplies by, or why it is left alone: empty for what isn't of weights."""
    value, turned = node.inputs[1], True
    producer = value.producer() if value is not None else None
    if (
        producer is not None
        and producer.op_type == "Transpose"
        and producer.attributes.get_ints("perm") == [1, 0]
    ):
        value, turned = producer.inputs[0], False
    if value is None or value.const_value is None:
        return ""
    if len(value.const_value.shape) != MATRIX_RANK or value.const_value.dtype != ir.DataType.FLOAT:
        return f"its weights are {value.const_value.dtype} {list(value.const_value.shape)}, no float32 matrix"
    if node.op_type == "Gemm":
        attributes = node.attributes
        scales = attributes.get_float("alpha", 1.0), attributes.get_float("beta", 1.0)
        if scales != (1.0, 1.0) or attributes.get_int("transA", 0) != 0:
            return "a Gemm that scales or turns what it multiplies"
        turned = turned != (attributes.get_int("transB", 0) == 1)
    return Constant(value.const_value, turned)


def _multiply(tape: ir.tape.Tape, node: ir.Node, form: Form, weights: Weights) -> ir.Value:
    x, bias = node.inputs[0], node.inputs[2] if len(node.inputs) > MATRIX_RANK else None
    if x is None:
        raise ValueError(f"'{node.name}' has nothing to multiply")
    return form.multiply(tape, x, weights, bias)


def _name(node: ir.Node) -> str:
    """`/model/layers.0/mlp/up/MatMul` → `model.layers.0.mlp.up`."""
    return str(node.name).strip("/").rpartition("/")[0].replace("/", ".") or str(node.name)
