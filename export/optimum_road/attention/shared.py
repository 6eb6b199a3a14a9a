"""Shared: what several layers' attention reads: lengths, tables of rotary embeddings, ALiBi's biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgert.bundle import graph_io
from edgert.export.forms import constant

from .probe import Probe
from .recognize import PAST, TOKENS, Attention
from .rotary import Table


@dataclass(frozen=True)
class Shared:
    """`seqlens_k` and `total` are inputs, as edgert feeds them; `tape` has the nodes that come first."""

    seqlens_k: ir.Value  # int32 (batch,): last index
    total: ir.Value  # int32 scalar
    tape: ir.tape.Tape
    tables: Mapping[Table, tuple[ir.Value, ir.Value]]  # (context, frequencies) each
    biases: Mapping[tuple[float, ...], ir.Value]  # (1, heads, tokens, total)


def share(probe: Probe, layers: Sequence[Attention], context: int) -> Shared:
    """What these layers read, for sequences of up to `context` tokens."""
    tape, int32 = ir.tape.Tape(), ir.TensorType(ir.DataType.INT32)
    last = ir.Value(name=graph_io.SEQLENS_K, type=int32, shape=ir.Shape(["batch"]))
    total = ir.Value(name=graph_io.TOTAL_SEQUENCE_LENGTH, type=int32, shape=ir.Shape([]))
    tables = dict.fromkeys(layer.table for layer in layers if layer.table is not None)
    slopes = dict.fromkeys(layer.scores.slopes for layer in layers if layer.scores.slopes)
    return Shared(
        seqlens_k=last,
        total=total,
        tape=tape,
        tables={table: _angles(tape, probe, table, context) for table in tables},
        biases={each: _bias(tape, each, probe.input(graph_io.INPUT_IDS), total) for each in slopes},
    )


def position_ids(shared: Shared, ids: ir.Value) -> ir.Value:
    """(batch, tokens): the last ones, up to the last index of each row."""
    tape = shared.tape
    tokens = tape.op("Squeeze", [_tokens(tape, ids)])
    last = tape.op("Cast", [shared.seqlens_k], {"to": ir.DataType.INT64})
    end = tape.op("Add", [last, constant(tape, "positions", "one", np.array(1))])
    first = tape.op("Sub", [end, tokens])
    column = tape.op("Unsqueeze", [first, constant(tape, "positions", "axis", np.array([1]))])
    bounds = [constant(tape, "positions", name, np.array(n)) for name, n in (("zero", 0), ("step", 1))]
    return tape.op("Add", [column, tape.op("Range", [bounds[0], tokens, bounds[1]])])


def _angles(tape: ir.tape.Tape, probe: Probe, table: Table, context: int) -> tuple[ir.Value, ir.Value]:
    """The graph's own cosines and sines, at all positions."""
    found = probe.run([table.cos, table.sin], probe.fed([0], max(context, PAST + TOKENS)))
    cos, sin = (
        constant(tape, name, f"{table.factor:g}/{table.take}", table.read(found[name]).astype(np.float32))
        for name in (table.cos, table.sin)
    )
    return cos, sin


def _bias(tape: ir.tape.Tape, slopes: Sequence[float], ids: ir.Value, total: ir.Value) -> ir.Value:
    """ALiBi (arXiv:2108.12409): slope times the position of the key; what all of a row share is left out."""
    bounds = [constant(tape, "alibi", name, np.array(n, np.int32)) for name, n in (("zero", 0), ("step", 1))]
    positions = tape.op("Range", [bounds[0], total, bounds[1]])
    columns = tape.op("Cast", [positions], {"to": ir.DataType.FLOAT})
    by_head = constant(tape, "alibi", "slopes", np.array(slopes, np.float32)[None, :, None, None])
    one, two = (constant(tape, "alibi", name, np.ones(n, np.int64)) for name, n in (("one", 1), ("two", 2)))
    shape = tape.op("Concat", [two, _tokens(tape, ids), one], {"axis": 0})
    return tape.op("Expand", [tape.op("Mul", [by_head, columns]), shape])


def _tokens(tape: ir.tape.Tape, ids: ir.Value) -> ir.Value:
    """How many tokens a run has, (1,)."""
    return tape.op("Shape", [ids], {"start": 1, "end": 2})
