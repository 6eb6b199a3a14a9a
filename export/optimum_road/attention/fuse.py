"""Fuse: a traced graph whose layers append keys and values in place, by GroupQueryAttention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as clean

from edgert.bundle import graph_io
from edgert.export.forms import constant
from edgert.export.layer import MICROSOFT
from edgert.export.optimum_road.report import Report

from .positions import offsets
from .probe import Array, Fed, NotComputed, Probe
from .recognize import LAST, PAST, TOKENS, Attention, recognize
from .scores import equal
from .shared import Shared, position_ids, share

ATTENTION = "attention"
GQA = "GroupQueryAttention"
BIAS = 10  # its input that is added to scores
ROWS = (9, 4)  # tokens that rows hold
REPLACED = (graph_io.ATTENTION_MASK, graph_io.POSITION_IDS)  # by lengths


def share_cache(probe: Probe, context: int) -> tuple[ir.Model | None, Report]:
    """A copy of the model that appends keys and values in place; None where that can't be, with the reasons.

    Every layer has to be recognized, and the copy has to give the same logits, for several rows at once, too.
    """
    report, copy = Report(ATTENTION), replace(probe, model=probe.model.clone())
    try:
        layers = recognize(copy, context)
        if isinstance(layers, dict):
            report.left |= layers
            return None, report
        _rewrite(copy, layers, share(copy, layers, context))
        if _reads_past(copy):
            report.leave(ATTENTION, "something else than attention reads the mask or the length of the past")
        elif not _same_logits(probe, copy, context):
            report.leave(ATTENTION, "GroupQueryAttention gives other logits")
        else:
            _settle(copy)
            if not _same_rows(copy):
                report.leave(ATTENTION, "it takes one sequence at a time")
    except (NotComputed, ValueError) as error:
        report.leave(ATTENTION, f"it can't be taken apart: {error}")
    if report.left:
        return None, report
    report.matched += [f"layers.{layer}: {attention}" for layer, attention in enumerate(layers)]
    return copy.model, report


def count_biases(model: ir.Model) -> int:
    """How many arrays a run makes to add to scores; layers share them."""
    fused = (node.inputs for node in model.graph if node.op_type == GQA)
    return len({inputs[BIAS] for inputs in fused if len(inputs) > BIAS} - {None})


def _rewrite(probe: Probe, layers: Sequence[Attention], shared: Shared) -> None:
    """GroupQueryAttention in place of every layer's attention, and lengths in place of positions."""
    graph, numbered = probe.model.graph, offsets(probe)
    positions = position_ids(shared, probe.input(graph_io.INPUT_IDS))
    for layer, attention in enumerate(layers):
        _fuse(probe, layer, attention, shared)
    for value, number in numbered.items():
        added = constant(shared.tape, str(value.name), "offset", np.array(number))
        value.replace_all_uses_with(shared.tape.op("Add", [positions, added]))
    for value in graph.inputs:
        if value.name == graph_io.POSITION_IDS:
            value.replace_all_uses_with(positions)
    graph.inputs.extend((shared.seqlens_k, shared.total))
    for value in shared.tape.initializers:
        graph.register_initializer(value)
    graph.insert_before(graph[0], shared.tape.nodes)
    clean.RemoveUnusedNodesPass()(probe.model)


def _fuse(probe: Probe, layer: int, attention: Attention, shared: Shared) -> None:
    """Put one node in place of a layer's attention. What that was made of stays, unused."""
    graph, tape, scores, table = probe.model.graph, ir.tape.Tape(), attention.scores, attention.table
    sources = {"query": attention.query, "key": attention.key, "value": attention.value}
    read = [source.flat(tape, f"layers.{layer}.{name}") for name, source in sources.items()]
    past = [probe.input(graph_io.past(layer, part)) for part in graph_io.PARTS]
    angles = shared.tables[table] if table else (None, None)
    made = tape.op_multi_out(
        GQA,
        [*read, *past, shared.seqlens_k, shared.total, *angles, None, shared.biases.get(scores.slopes)],
        {
            "num_heads": attention.num_heads,
            "kv_num_heads": probe.cache.num_kv_heads,
            "scale": scores.scale,
            "softcap": scores.softcap,
            "local_window_size": attention.window or -1,
            "do_rotary": int(table is not None),
            "rotary_interleaved": int(table is not None and table.interleaved),
        },
        num_outputs=3,
        domain=MICROSOFT,
        name=f"layers.{layer}.attention",
    )
    for value in tape.initializers:
        graph.register_initializer(value)
    place = attention.attended.producer()
    if place is None:
        raise ValueError(f"'{attention.attended.name}' is made by nothing")
    graph.insert_before(place, tape.nodes)
    attention.attended.replace_all_uses_with(made[0])
    for part, value in zip(graph_io.PARTS, made[1:], strict=True):
        _output(graph, graph_io.present(layer, part), value)


def _output(graph: ir.Graph, name: str, value: ir.Value) -> None:
    """Put another value in the place of an output, which keeps its name."""
    place = next(number for number, output in enumerate(graph.outputs) if output.name == name)
    traced = graph.outputs[place]
    value.type, value.shape, traced.name, value.name = traced.type, traced.shape, f"{name}/traced", name
    graph.outputs[place] = value


def _reads_past(probe: Probe) -> bool:
    """Whether anything but GroupQueryAttention reads what edgert wouldn't feed, or keys and values."""
    lasting = (
        graph_io.INPUT_IDS,
        graph_io.LOGITS_POSITIONS,
        graph_io.SEQLENS_K,
        graph_io.TOTAL_SEQUENCE_LENGTH,
    )
    readers = (
        node for value in probe.model.graph.inputs if value.name not in lasting for node in value.consumers()
    )
    return any(node.op_type != GQA for node in readers)


def _same_logits(one: Probe, other: Probe, context: int) -> bool:
    """At the beginning of the context and at its end."""
    runs = one.fed([PAST], TOKENS), one.fed([max(PAST, context - LAST)], LAST)
    pairs = ([_logits(probe, fed) for probe in (one, other)] for fed in runs)
    return all(equal(*pair) for pair in pairs)


def _same_rows(probe: Probe) -> bool:
    """Whether rows that hold different texts get together what each gets alone."""
    fed = probe.fed(ROWS, 1)
    together = _logits(probe, fed)
    alone = [_logits(probe, fed.row(number)) for number in range(len(ROWS))]
    return len(together) == len(ROWS) and all(map(equal, together, [logits[0] for logits in alone]))


def _logits(probe: Probe, fed: Fed) -> Array:
    return probe.run([graph_io.LOGITS], fed)[graph_io.LOGITS]


def _settle(probe: Probe) -> None:
    """Several sequences in one run, and a cache of one length."""
    graph, cache = probe.model.graph, probe.cache
    for value in [value for value in graph.inputs if value.name in REPLACED]:
        graph.inputs.remove(value)
    held = {
        name(layer, part)
        for name in (graph_io.past, graph_io.present)
        for layer in range(cache.num_layers)
        for part in graph_io.PARTS
    }
    for value in (*graph.inputs, *graph.outputs):
        if value.name in held:
            value.shape = ir.Shape(["batch", cache.num_kv_heads, "context", cache.head_dim])
        elif value.name in (graph_io.INPUT_IDS, graph_io.LOGITS):
            value.shape = ir.Shape(["batch", *list(value.shape or ())[1:]])
