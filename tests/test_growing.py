"""Graphs that give their cache back longer than they got it, as other exporters make them."""

import numpy as np
import onnx_ir as ir
import pytest

from edgert.bundle import GraphFacts
from edgert.devices import load
from edgert.engine.decoder import open_decoder
from edgert.engine.engine import Engine
from edgert.engine.graph_session import GraphSession
from edgert.engine.sequence import Sequence

VOCAB, HEADS, DIM = 40, 2, 8
IDS = np.random.default_rng(3).integers(0, VOCAB, 30).tolist()


class OneLayer:
    """Attention over embeddings: enough that every token depends on those before."""

    def __init__(self):
        rng = np.random.default_rng(1)
        self.embedding = rng.normal(size=(VOCAB, HEADS * DIM)).astype(np.float32)

    def graph(self, positions):
        tape = ir.tape.Tape()

        def constant(name, array):
            return tape.initializer(ir.tensor(array, name=name))

        def value(name, dtype, *shape):
            return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))

        table = constant("embedding", self.embedding)
        ids = value("input_ids", ir.DataType.INT64, 1, "sequence")
        mask = value("attention_mask", ir.DataType.INT64, 1, "total")
        wanted = value("logits_positions", ir.DataType.INT64, "wanted")
        place = value("position_ids", ir.DataType.INT64, 1, "sequence")
        past = [
            value(f"past_key_values.0.{p}", ir.DataType.FLOAT, 1, HEADS, "past", DIM)
            for p in ("key", "value")
        ]
        hidden = tape.op("Gather", [table, ids])
        if positions:  # something that only right positions give
            by_place = tape.op("Cast", [place], {"to": ir.DataType.FLOAT})
            last = tape.op("Unsqueeze", [by_place, constant("last", np.array([-1]))])
            hidden = tape.op("Add", [hidden, tape.op("Mul", [last, constant("slope", np.float32(0.1))])])
        split = constant("split", np.array([0, 0, HEADS, DIM]))
        heads = tape.op("Transpose", [tape.op("Reshape", [hidden, split])], {"perm": [0, 2, 1, 3]})
        keys, values = (tape.op("Concat", [p, heads], {"axis": 2}) for p in past)
        scores = tape.op("MatMul", [heads, tape.op("Transpose", [keys], {"perm": [0, 1, 3, 2]})])
        shape = tape.op("Shape", [scores], {"start": 2})
        ones = tape.op("ConstantOfShape", [shape], {"value": ir.tensor(np.array([-1e9], np.float32))})
        behind = tape.op("Shape", [past[0]], {"start": 2, "end": 3})
        offset = tape.op("Add", [tape.op("Squeeze", [behind]), constant("one", np.array(1))])
        hiding = tape.op("Trilu", [ones, offset], {"upper": 1})
        mixed = tape.op(
            "MatMul", [tape.op("Softmax", [tape.op("Add", [scores, hiding])], {"axis": -1}), values]
        )
        joined = constant("join", np.array([0, 0, HEADS * DIM]))
        flat = tape.op("Reshape", [tape.op("Transpose", [mixed], {"perm": [0, 2, 1, 3]}), joined])
        picked = tape.op("Gather", [flat, wanted], {"axis": 1})
        logits = tape.op("MatMul", [picked, constant("head", self.embedding.T.copy())])
        logits.name, logits.type = "logits", ir.TensorType(ir.DataType.FLOAT)
        for name, made in (("key", keys), ("value", values)):
            made.name, made.type = f"present.0.{name}", ir.TensorType(ir.DataType.FLOAT)
        inputs = [ids, mask, *([place] if positions else []), *past, wanted]
        made = ir.Graph(
            inputs,
            [logits, keys, values],
            nodes=tape.nodes,
            initializers=tape.initializers,
            opset_imports={"": 21},
            name="growing",
        )
        return ir.Model(made, ir_version=10)


@pytest.fixture(params=[False, True], ids=["", "positions"])
def decoder(request, tmp_path, bundles):
    """A decoder over the graph above, as a bundle's would be."""
    import dataclasses

    from edgert.bundle import open_bundle

    path = tmp_path / "growing.onnx"
    ir.save(OneLayer().graph(request.param), path)
    bundle = open_bundle(bundles())
    facts = dataclasses.replace(
        bundle.manifest.model, num_layers=1, num_kv_heads=HEADS, head_dim=DIM, vocab_size=VOCAB
    )
    graph = GraphFacts("fp32", ("laptop-cpu",), "fp32", cache="growing")
    graphs = {"growing.onnx": graph}
    opened = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, graphs=graphs))
    session = GraphSession(opened, load("laptop-cpu"), "growing.onnx", path)
    return open_decoder(session, facts, graph, 64, 256, conversations=3)


def test_steps_and_chunks_equal_reading_the_whole(decoder):
    whole = decoder.score(IDS)
    slot = decoder.afresh()
    steps = [decoder.extend(slot, IDS[:7])[0]]
    steps += [decoder.decode([slot], [token])[0].copy() for token in IDS[7:]]
    assert np.abs(np.array(steps) - whole[6:]).max() < 1e-4
    decoder.chunk = 4
    assert np.abs(decoder.score(IDS) - whole).max() < 1e-4


def test_a_rewound_row_equals_a_fresh_one(decoder):
    fresh = decoder.extend(decoder.afresh(), IDS[:20])
    slot = decoder.afresh()
    decoder.extend(slot, IDS[:12] + IDS[25:30])
    slot.rewind(12)
    assert np.abs(decoder.extend(slot, IDS[12:20]) - fresh).max() < 1e-4


def test_rows_keep_to_themselves(decoder):
    alone = [decoder.score(IDS[n : n + 6])[-1] for n in (0, 8, 16)]
    for slot, n in zip(decoder.slots, (0, 8, 16), strict=True):
        slot.rewind(0)
        decoder.extend(slot, IDS[n : n + 5])
    together = decoder.decode(decoder.slots, [IDS[n + 5] for n in (0, 8, 16)])
    assert np.abs(np.array(together) - np.array(alone)).max() < 1e-4


class Greedy:
    """Ten tokens, each the likeliest."""

    every, ready = False, True

    def __init__(self):
        self.tokens, self.ended = [], None

    def start(self, cached_tokens):
        self.cached = cached_tokens

    def draft(self, pace):
        return ()

    def take(self, logits):
        self.tokens.append(int(logits[-1].argmax()))
        return self.tokens[-1:] if len(self.tokens) < 10 else ()

    def end(self, error, cancelled):
        self.ended = error or cancelled


def test_the_engine_runs_several(decoder):
    def answers(prompts):
        engine, consumers = Engine(decoder), [Greedy() for _ in prompts]
        for prompt, consumer in zip(prompts, consumers, strict=True):
            engine.add(Sequence(prompt, consumer))
        while not engine.idle:
            engine.step()
        assert [consumer.ended for consumer in consumers] == [False] * len(prompts)
        return [consumer.tokens for consumer in consumers]

    prompts = [IDS[:5], IDS[3:12], IDS[10:28], IDS[:9]]
    assert answers(prompts) == [answers([prompt])[0] for prompt in prompts]
