"""Attention of traced graphs, recognized by what it computes, on graphs of one layer written here."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from edgert.export.optimum_road.attention.fuse import count_biases, share_cache
from edgert.export.optimum_road.attention.probe import Probe
from edgert.export.optimum_road.attention.rotary import Table, fit_rotated, fit_table, readings, rotate
from edgert.export.optimum_road.attention.scores import fit_window
from edgert.export.optimum_road.genai import for_genai
from edgert.export.optimum_road.interface import settle

VOCAB, HEADS, KV_HEADS, SIZE, CONTEXT = 40, 4, 2, 16, 64
WIDTH = HEADS * SIZE


class Traced:
    """One layer of attention as an exporter writes it; methods are steps that a test can write otherwise."""

    scale, window, softcap, slopes, rotary = 0.3, 0, 0.0, None, False

    def __init__(self):
        self.tape, self.draw = ir.tape.Tape(), np.random.default_rng(0)
        self.ids, self.mask, self.positions = (
            ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["b", "s"]))
            for name in ("input_ids", "attention_mask", "position_ids")
        )
        self.past = [
            ir.Value(
                name=f"past_key_values.0.{part}",
                type=ir.TensorType(ir.DataType.FLOAT),
                shape=ir.Shape(["b", KV_HEADS, "p", SIZE]),
            )
            for part in ("key", "value")
        ]

    def op(self, kind, *inputs, **attributes):
        taken = [self.constant(x) if isinstance(x, (np.ndarray, list, int, float)) else x for x in inputs]
        return self.tape.op(kind, taken, attributes or None)

    def constant(self, array):
        array = np.array(array, np.float32 if np.asarray(array).dtype.kind == "f" else np.int64)
        return self.tape.initializer(ir.tensor(array, name=f"c{len(self.tape.initializers)}"))

    def heads(self, x, count):
        weights = self.draw.normal(size=(WIDTH, count * SIZE)) / 8
        return self.op(
            "Transpose",
            self.op("Reshape", self.op("MatMul", x, weights), [0, 0, count, SIZE]),
            perm=[0, 2, 1, 3],
        )

    def turn(self, x):
        """Rotate halves, as Llama's code does."""
        if not self.rotary:
            return x
        frequencies = np.tile(10.0 ** -np.arange(SIZE // 2), 2)[None, None]
        angles = self.op("Mul", self.op("Cast", self.op("Unsqueeze", self.positions, [2]), to=1), frequencies)
        cos, sin = (self.op("Unsqueeze", self.op(kind, angles), [1]) for kind in ("Cos", "Sin"))
        one, other = self.tape.op_multi_out("Split", [x], {"axis": 3, "num_outputs": 2}, num_outputs=2)
        turned = self.op("Concat", self.op("Neg", other), one, axis=3)
        return self.op("Add", self.op("Mul", x, cos), self.op("Mul", turned, sin))

    def length(self, x, axis):
        return self.op("Squeeze", self.op("Shape", x, start=axis, end=axis + 1))

    def scored(self, product):
        """What Softmax takes."""
        scores = self.op("Mul", product, self.scale)
        if self.softcap:
            scores = self.op("Mul", self.op("Tanh", self.op("Div", scores, self.softcap)), self.softcap)
        total = self.op("Range", 0, self.length(product, 3), 1)
        if self.slopes is not None:
            bias = self.op("Mul", self.op("Cast", total, to=1), np.array(self.slopes)[:, None, None])
            scores = self.op("Add", scores, bias)
        rows = self.op("Unsqueeze", self.op("Unsqueeze", self.positions, [2]), [1])
        return self.op("Where", self.seen(total, rows), scores, -3e38)

    def seen(self, columns, rows):
        causal = self.op("LessOrEqual", columns, rows)
        if not self.window:
            return causal
        return self.op("And", causal, self.op("Greater", columns, self.op("Sub", rows, self.window)))

    def model(self):
        x = self.op("Gather", self.draw.normal(size=(VOCAB, WIDTH)), self.ids)
        query = self.turn(self.heads(x, HEADS))
        new = self.turn(self.heads(x, KV_HEADS)), self.heads(x, KV_HEADS)
        present = [self.op("Concat", *pair, axis=2) for pair in zip(self.past, new, strict=True)]
        spread = [
            self.op(
                "Reshape",
                self.op("Expand", self.op("Unsqueeze", all_of, [2]), [1, 1, 2, 1, 1]),
                [0, HEADS, -1, SIZE],
            )
            for all_of in present
        ]
        product = self.op("MatMul", query, self.op("Transpose", spread[0], perm=[0, 1, 3, 2]))
        weighed = self.op("MatMul", self.op("Softmax", self.scored(product), axis=-1), spread[1])
        flat = self.op("Reshape", self.op("Transpose", weighed, perm=[0, 2, 1, 3]), [0, 0, WIDTH])
        logits = self.op("MatMul", flat, self.draw.normal(size=(WIDTH, VOCAB)))
        logits.name, logits.type, logits.shape = (
            "logits",
            ir.TensorType(ir.DataType.FLOAT),
            ir.Shape(["b", "s", VOCAB]),
        )
        for value, part in zip(present, ("key", "value"), strict=True):
            value.name, value.type = f"present.0.{part}", ir.TensorType(ir.DataType.FLOAT)
        graph = ir.Graph(
            [value for value in (self.ids, self.mask, self.positions, *self.past) if not value.producer()],
            [logits, *present],
            nodes=self.tape.nodes,
            initializers=self.tape.initializers,
            opset_imports={"": 18, "com.microsoft": 1},
            name="traced",
        )
        return ir.Model(graph, ir_version=10)


def fuse(traced, folder):
    model = traced.model()
    cache, _ = settle(model)
    return share_cache(Probe(model, cache, folder, VOCAB), CONTEXT)


def variant(**changed):
    return type("Variant", (Traced,), changed)()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "scale 0.3"),
        ({"window": 9}, "scale 0.3, window of 9"),
        ({"softcap": 2.0}, "scale 0.3, soft cap 2"),
        ({"slopes": (0.5, 0.25, 0.125, 0.0625)}, "scale 0.3, ALiBi"),
        ({"rotary": True}, "scale 0.3, rotary"),
        ({"rotary": True, "window": 9}, "scale 0.3, window of 9, rotary"),
    ],
)
def test_attention_becomes_one_node(changed, said, tmp_path):
    model, report = fuse(variant(**changed), tmp_path)
    assert report.matched == [f"layers.0: {said}"] and not report.left
    kinds = [node.op_type for node in model.graph]
    assert count_biases(model) == int("slopes" in changed)
    assert kinds.count("GroupQueryAttention") == 1 and not {"Softmax", "Where", "Sin"} & set(kinds)
    inputs = [value.name for value in model.graph.inputs]
    assert "attention_mask" not in inputs and inputs[-2:] == ["seqlens_k", "total_sequence_length"]
    assert not list(tmp_path.iterdir())


def test_onnxruntime_genai_feeds_a_mask(tmp_path):
    model, _ = fuse(variant(rotary=True), tmp_path)
    inputs = [value.name for value in for_genai(model).graph.inputs]
    assert inputs == ["input_ids", "past_key_values.0.key", "past_key_values.0.value", "attention_mask"]
    assert "seqlens_k" in [value.name for value in model.graph.inputs]


class Bidirectional(Traced):
    def seen(self, columns, rows):
        return self.op("GreaterOrEqual", columns, self.op("Mul", rows, 0))


class Changing(Traced):
    """Every other token is a window's edge."""

    def seen(self, columns, rows):
        edge = self.op("Mul", self.op("Div", rows, 2), 2)
        return self.op(
            "And", super().seen(columns, rows), self.op("Greater", columns, self.op("Sub", edge, 9))
        )


class Bent(Traced):
    def scored(self, product):
        return super().scored(self.op("Mul", product, product))


class Counting(Traced):
    """Something else that needs the length of the past: here, logits."""

    def heads(self, x, count):
        length = self.op("Cast", self.length(self.past[0], 2), to=1)
        return super().heads(self.op("Mul", x, length), count)


class Slowing(Traced):
    """Scores are scaled otherwise from a position on, as some long-context models do."""

    def scored(self, product):
        rows = self.op("Cast", self.op("Unsqueeze", self.op("Unsqueeze", self.positions, [2]), [1]), to=1)
        later = self.op("Add", self.op("Floor", self.op("Div", rows, CONTEXT / 2)), 1.0)
        return super().scored(self.op("Mul", product, later))


class OneRow(Traced):
    """Positions of the first sequence stand for those of all."""

    def heads(self, x, count):
        table = np.random.default_rng(1).normal(size=(CONTEXT, WIDTH))
        first = self.op("Gather", self.positions, 0, axis=0)
        return super().heads(self.op("Add", x, self.op("Gather", table, first)), count)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Slowing, {"layers.0": "its scores change along the text"}),
        (OneRow, {"attention": "it takes one sequence at a time"}),
        (Bidirectional, {"layers.0": "its mask isn't causal"}),
        (Changing, {"layers.0": "its window changes along the text"}),
        (Bent, {"layers.0": "its scores are more than scaled products"}),
        (Counting, {"attention": "something else than attention reads the mask or the length of the past"}),
    ],
)
def test_what_computes_something_else_is_left_alone(kind, why, tmp_path):
    model, report = fuse(kind(), tmp_path)
    assert model is None and report.left == why and not report.matched


def test_rounding_of_large_scores_is_no_alibi(tmp_path):
    class Loud(Traced):
        def heads(self, x, count):
            bias = np.random.default_rng(count).normal(size=(1, count, 1, SIZE)) * 30
            return self.op("Add", super().heads(x, count), bias)

    _, report = fuse(Loud(), tmp_path)
    assert report.matched == ["layers.0: scale 0.3"]


def test_a_context_shorter_than_the_probe(tmp_path):
    model = variant(rotary=True).model()
    cache, _ = settle(model)
    _, report = share_cache(Probe(model, cache, tmp_path, VOCAB), 8)
    assert report.matched == ["layers.0: scale 0.3, rotary"]


def test_a_graph_that_does_not_run_is_left_alone(tmp_path):
    class Broken(Traced):
        def scored(self, product):
            return self.op("Reshape", super().scored(product), [1, 2, 3])

    model, report = fuse(Broken(), tmp_path)
    assert model is None and "it can't be taken apart" in report.left["attention"]
    assert not list(tmp_path.iterdir())


def test_other_logits_are_noticed(tmp_path, monkeypatch):
    """Whatever recognizing misses: here, a scale that is wrong."""
    from edgert.export.optimum_road.attention import fuse as module

    known = module.recognize

    def mistaken(probe, context):
        return [
            replace(layer, scores=replace(layer.scores, scale=layer.scores.scale * 1.1))
            for layer in known(probe, context)
        ]

    monkeypatch.setattr(module, "recognize", mistaken)
    model, report = fuse(Traced(), tmp_path)
    assert model is None and report.left == {"attention": "GroupQueryAttention gives other logits"}


def test_positions_counted_from_the_past_are_replaced(tmp_path):
    class Counted(Traced):
        def __init__(self):
            super().__init__()
            past, tokens = self.length(self.past[0], 2), self.length(self.ids, 1)
            self.positions = self.op(
                "Unsqueeze", self.op("Range", past, self.op("Add", past, tokens), 1), [0]
            )

    class Learned(Counted):
        """Reads a table of positions, two rows on, as OPT does."""

        def heads(self, x, count):
            table = np.random.default_rng(1).normal(size=(CONTEXT + 2, WIDTH))
            return super().heads(
                self.op("Add", x, self.op("Gather", table, self.op("Add", self.positions, 2))), count
            )

    model, report = fuse(Learned(), tmp_path)
    assert model is not None and report.matched == ["layers.0: scale 0.3"]
    assert "Shape" in [node.op_type for node in model.graph]


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("size", [16, 24])
def test_tables_are_found_with_their_factor(interleaved, size):
    """A whole head or the first 16 of 24, and YaRN's factor on the tables."""
    draw = np.random.default_rng(0)
    angles = draw.uniform(0, 6, (7, 8))
    wide = np.repeat(angles, 2, axis=1) if interleaved else np.tile(angles, 2)
    cos, sin = np.cos(wide)[None], np.sin(wide)[None]
    x = draw.normal(size=(3, 7, size))
    true = Table("cos", "sin", range(0, 16, 2) if interleaved else range(8), interleaved, 1.2)
    y = rotate(true, cos, sin, x)
    fits = [fit_table(table, cos, sin, x, y) for table in readings("cos", "sin", 16)]
    assert [fit for fit in fits if fit] == [true]
    assert fit_rotated(true, cos, sin, x, 3 * y) == pytest.approx(3)
    assert fit_table(true, cos, sin, x, x) is None


def test_heads_that_see_different_tokens_are_noticed():
    seen = np.tri(9, dtype=bool)[None, -2:].repeat(2, axis=0)
    assert fit_window(seen, 7) == 0
    seen[1, 0, 3] = False
    assert fit_window(seen, 7) == "its heads see different tokens"
