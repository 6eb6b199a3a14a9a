"""The Optimum road without torch: passes on small graphs, what is refused, which road is taken."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import tiny
from click.testing import CliRunner
from safetensors.numpy import save_file

from edgert import CheckpointError, EdgertWarning, MissingExtra, UsageError
from edgert.cli import main
from edgert.export import ExportOptions, export, optimum_road
from edgert.export.forms import Blocks, Float32
from edgert.export.optimum_road import tracing
from edgert.export.optimum_road.interface import head_of, settle
from edgert.export.optimum_road.lookups import look_up
from edgert.export.optimum_road.products import store_products
from edgert.export.optimum_road.report import Report
from edgert.export.optimum_road.store import Store
from edgert.export.optimum_road.student import open_student
from edgert.export.road import needs_optimum

VOCAB, HIDDEN = 48, 32
TABLE = np.random.default_rng(0).normal(size=(VOCAB, HIDDEN)).astype(np.float32)


def graph(head=TABLE.T, bend=(), past=(1, 2, "past", 16), table=TABLE):
    """A model as traced: embedding, head, `bend` after it; a cache that is passed on."""
    ids = ir.Value(name="input_ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["b", "s"]))
    caches = [f"past_key_values.0.{part}" for part in ("key", "value")]
    pasts = [ir.Value(name=n, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(past)) for n in caches]
    tape = ir.tape.Tape()
    table = tape.initializer(ir.tensor(table, name="wte"))
    x = tape.op("Gather", [table, ids], name="/wte/Gather")
    x = tape.op(
        "MatMul", [x, tape.initializer(ir.tensor(np.ascontiguousarray(head), name="w"))], name="/head/MatMul"
    )
    for op in bend:
        x = tape.op(op, [x], name=op)
    x.name, x.type, x.shape = "logits", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["b", "s", VOCAB])
    presents = [tape.op("Identity", [value]) for value in pasts]
    for value, name in zip(presents, ("present.0.key", "present.0.value"), strict=True):
        value.name, value.type = name, ir.TensorType(ir.DataType.FLOAT)
    inside = ir.Graph(
        [ids, *pasts],
        [x, *presents],
        nodes=tape.nodes,
        initializers=tape.initializers,
        opset_imports={"": 18},
        name="traced",
    )
    return ir.Model(inside, ir_version=10)


def ops(model):
    return [node.op_type for node in model.graph]


def test_hidden_states_are_gathered_before_the_head():
    model = graph(bend=("Tanh",))
    cache, report = settle(model)
    assert (cache.num_layers, cache.num_kv_heads, cache.head_dim) == (1, 2, 16)
    assert ops(model)[:4] == ["Gather", "Gather", "MatMul", "Tanh"] and not report.left
    assert model.graph.inputs[-1].name == "logits_positions"
    assert str(model.graph.outputs[0].shape) == f"[1,wanted,{VOCAB}]"


def test_logits_are_gathered_where_no_head_is_recognized():
    model = graph(bend=("Softmax",))
    assert head_of(model.graph.outputs[0]) is None
    _, report = settle(model)
    assert ops(model)[-1] == "Gather" and model.graph.outputs[0].name == "logits"
    assert report.left == {"logits_positions": "no head recognized: all logits are computed, then gathered"}


def test_a_cache_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="don't cache keys and values as"):
        settle(graph(past=(1, "past", 32)))


def test_an_input_that_nobody_feeds_is_refused():
    model = graph()
    model.graph.inputs.append(ir.Value(name="alibi"))
    with pytest.raises(ValueError, match=r"edgert doesn't know \(alibi\)"):
        settle(model)


def lowered(model, form):
    settle(model)
    store = Store(lambda _: form)
    return store, look_up(model, store), store_products(model, store)


def test_tied_tables_are_stored_once():
    model = graph()
    store, table, products = lowered(model, Blocks(8, 32, 4))
    assert list(store.matrices) == ["embedding"] and (table.matched, products.matched) == (["wte"], ["head"])
    assert ops(model)[:3] == ["GatherBlockQuantized", "Gather", "MatMulNBits"]
    assert {place.matrix for place in store.places} == {"embedding"}


def test_other_heads_are_stored_turned_around():
    model = graph(head=TABLE[::-1].T)
    store, *_ = lowered(model, Float32())
    assert list(store.matrices) == ["embedding", "head"]
    assert np.array_equal(store.matrices["head"].read(), TABLE[::-1])
    assert "FusedMatMul" in ops(model)


def test_what_does_not_fit_is_left_alone_and_named():
    model = graph(head=np.ones((20, VOCAB), np.float32), table=np.ones((VOCAB, 20), np.float32))
    store, table, products = lowered(model, Blocks(8, 32, 4))
    why = "20 columns are not a multiple of 16"
    assert not store.matrices and table.left == {"wte": why} and products.left == {"head": why}
    assert list(products.lines()) == ["matrices: 0 changed, 1 left alone", f"  head: {why}"]


def test_reports_name_one_example_for_each_reason():
    report = Report("matrices", left={"a": "odd", "b": "odd", "c": "even"})
    assert list(report.lines())[1:] == ["  a and 1 more: odd", "  c: even"]


def folder(tmp_path, **config):
    """A checkpoint folder with a config of its own; tensors nobody reads."""
    source = tiny.write(tmp_path / "c")
    (source / "config.json").write_text(json.dumps(config), "utf-8")
    return source


GPT2 = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "vocab_size": 320,
}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
            r"BertForMaskedLM \(bert\) is an encoder",
        ),
        ({**GPT2, "architectures": ["GPT2ForSequenceClassification"]}, "classifies texts: out of scope"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "gives embeddings"),
        ({"model_type": "llava", "vision_config": {}}, "a llava reads images or sound: out of scope"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "a t5 is an encoder with a decoder"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "a mixtral is a mixture of experts"),
        ({**GPT2, "quantization_config": {"bits": 4}}, "already quantized"),
        ({**GPT2, "n_embd": 0}, "none of hidden_size, n_embd, d_model, dim is a number above 0"),
    ],
)
def test_what_is_no_student_is_told_in_a_line(tmp_path, config, said):
    source = folder(tmp_path, **config)
    with pytest.raises(CheckpointError, match=said):
        export(source, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_sizes_are_found_under_their_many_names(tmp_path):
    student = open_student(folder(tmp_path, **GPT2, n_positions=512))
    assert (student.hidden_size, student.intermediate_size, student.num_heads) == (64, 256, 4)
    assert (student.num_layers, student.num_kv_heads, student.head_dim) == (2, 4, 16)
    assert student.max_context == 512 and student.names_context and student.tied_embeddings


@pytest.mark.parametrize(
    ("config", "heads"),
    [
        ({"num_key_value_heads": 2}, 2),
        ({"multi_query": True}, 1),
        ({"multi_query": True, "new_decoder_architecture": True, "num_kv_heads": 2}, 2),
        ({"multi_query": False, "num_kv_heads": None}, 4),
    ],
)
def test_heads_of_keys_and_values_by_their_many_names(tmp_path, config, heads):
    assert open_student(folder(tmp_path, **GPT2, **config)).num_kv_heads == heads


@pytest.mark.parametrize("said", ['{"repetition_penalty": "hot"}', '{"eos_token_id": [[1]]}'])
def test_malformed_texts_are_one_line(said, tmp_path):
    source = folder(tmp_path, **GPT2)
    (source / "generation_config.json").write_text(said)
    with pytest.raises(CheckpointError) as error:
        open_student(source)
    assert str(error.value).startswith(f"{source}: malformed (") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "alibi"),
    [
        ({"model_type": "bloom"}, True),
        ({"model_type": "falcon", "alibi": True}, True),
        ({"model_type": "falcon", "alibi": False}, False),
        ({"model_type": "mpt", "attn_config": {"alibi": True}}, True),
        ({"model_type": "mpt", "attn_config": {"alibi": False}}, False),
    ],
)
def test_fit_counts_the_bias_of_families_with_alibi(config, alibi, tmp_path):
    source = folder(tmp_path, **{**GPT2, **config})
    save_file({"wte": np.zeros((320, 64), np.float32)}, source / "model.safetensors")
    board = ("--device", "raspberry-pi-5")  # keeps no scores besides
    found = json.loads(fit(source, "--json", *board, "--context", "128").stdout)[0]
    assert (found["scores"] > 0) is alibi and found["scores"] == 128 * found["scores_per_token"]
    assert ("attention scores" in fit(source, *board).stdout) is alibi


def fit(*arguments):
    return CliRunner().invoke(main, ["fit", *map(str, arguments)])


def test_fit_tells_of_a_family_that_nobody_has_traced_yet(tmp_path):
    """And does without the extra: whoever would get gigabytes for it can ask first."""
    source = folder(tmp_path, **GPT2, n_positions=128)
    save_file(
        {
            "wte": np.zeros((320, 64), np.float32),
            "h.0": np.zeros((64, 256), np.float32),
            "h.0.mask": np.zeros((1, 1, 512, 512), np.float32),  # a buffer, not a weight
        },
        source / "model.safetensors",
    )
    done = fit(source, "--json", "--device", "laptop-cpu", "--device", "raspberry-pi-4")
    assert done.exit_code == 0, done.output
    blocks, rows = json.loads(done.stdout)
    numbers = 320 * 64 + 64 * 256
    assert rows["weights"] == numbers and numbers * 9 / 8 <= blocks["weights"] <= numbers * 10 / 8
    assert blocks["kv_per_token"] % (2 * 2 * 4 * 16 * 4) == 0 and blocks["context"] == 128
    untied = folder(tmp_path / "untied", **GPT2, tie_word_embeddings=False)
    (source / "model.safetensors").replace(untied / "model.safetensors")
    looked_up = json.loads(fit(untied, "--json", "--device", "raspberry-pi-4").stdout)[0]
    assert looked_up["weights"] < rows["weights"]


def test_fit_refuses_what_this_road_can_not_do(tmp_path):
    done = fit(folder(tmp_path, **GPT2), "--kv", "int8")
    assert done.exit_code == UsageError.exit_code and "--kv int8 needs the direct road" in done.output


def test_auto_takes_the_direct_road_where_it_is_known(tmp_path, checkpoints):
    assert not needs_optimum(checkpoints("llama")) and not needs_optimum(tmp_path / "model.gguf")
    assert needs_optimum(folder(tmp_path, **GPT2))


@pytest.mark.skipif(optimum_road.is_installed(), reason="the extra is installed")
def test_a_missing_extra_is_named(tmp_path):
    with pytest.raises(MissingExtra, match=r"exporting gpt2 via optimum needs the \[optimum\] extra"):
        export(folder(tmp_path, **GPT2, n_positions=128), tmp_path / "b")


def test_direct_can_be_forced(tmp_path):
    with pytest.raises(CheckpointError, match="model_type 'gpt2' is not supported"):
        export(folder(tmp_path, **GPT2), tmp_path / "b", ExportOptions(via="direct"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quant": "mixed", "max_kl": 0.1}, "--quant mixed needs the direct road"),
        ({"kv": "int8"}, "--kv int8 needs the direct road"),
        ({"separate_adapters": {"law": Path("lora")}}, "--adapter-separate needs the direct road"),
    ],
)
def test_what_this_road_can_not_do_is_refused(tmp_path, options, said):
    with pytest.raises(UsageError, match=said):
        export(folder(tmp_path, **GPT2), tmp_path / "b", ExportOptions(via="optimum", **options))


@pytest.mark.parametrize(
    ("weights", "said"),
    [(164_000_000, "3.3 GB of memory and 28 seconds"), (563_000_000, "5.2 GB of memory and 50 seconds")],
)
def test_the_cost_of_tracing_is_told_as_it_was_measured(weights, said):
    with pytest.warns(EdgertWarning, match=said):
        tracing.warn_of_cost(weights)
