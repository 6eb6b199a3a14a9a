"""Names of inputs and outputs, and kinds of KV cache: one place that everything follows."""

import json
import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
from click.testing import CliRunner

import edgert
from edgert import open_bundle
from edgert.bundle import graph_io
from edgert.bundle.graph_io import KV_KINDS, KVKind
from edgert.cli import main
from edgert.export import ExportOptions, export

OURS = {graph_io.SEQLENS_K, graph_io.TOTAL_SEQUENCE_LENGTH, graph_io.LOGITS_POSITIONS}


ROOT = Path(__file__).parent.parent


def names(path):
    graph = ir.load(path).graph
    return {value.name for value in graph.inputs}, {value.name for value in graph.outputs}


def test_graphs_have_these_inputs_and_outputs_and_no_others(bundles):
    bundle = open_bundle(bundles())
    places = [(n, part) for n in range(bundle.manifest.model.num_layers) for part in graph_io.PARTS]
    past, present = ({name(*place) for place in places} for name in (graph_io.past, graph_io.present))
    for graph, fed in (("model.onnx", OURS), ("genai.onnx", {graph_io.ATTENTION_MASK})):
        inputs, outputs = names(bundle.path(graph))
        assert inputs == {graph_io.INPUT_IDS, *fed, *past}
        assert outputs == {graph_io.LOGITS, *present}


def test_genai_is_told_the_same_names(bundles):
    decoder = json.loads((bundles() / "genai_config.json").read_text("utf-8"))["model"]["decoder"]
    inputs, outputs = names(bundles() / "genai.onnx")
    told = [*decoder["inputs"].values(), *decoder["outputs"].values()]
    layers = open_bundle(bundles()).manifest.model.num_layers
    assert {name.replace("%d", str(n)) for name in told for n in range(layers)} == inputs | outputs


def test_no_name_is_spelled_out_elsewhere():
    spelled = re.compile(
        r"past_key_values|f?\"present\.|\"(seqlens_k|total_sequence_length|logits_positions)\""
    )
    for folder in ("edgert", "export"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "graph_io.py":
                assert not spelled.search(path.read_text("utf-8")), path


def test_another_kind_of_cache_is_one_entry(checkpoints, tmp_path, monkeypatch):
    """Exported, opened, shown, planned, run, replaced; what is not in the table is refused."""
    slim = KVKind("slim", np.int8, "-slim", scaled=True)
    folder, options = tmp_path / "b", {"quant": "fp32", "verify": False}
    monkeypatch.setitem(KV_KINDS, slim.name, slim)
    export(checkpoints("llama"), folder, ExportOptions(kv="slim", **options))
    assert list(open_bundle(folder).manifest.graphs) == ["model-slim.onnx", "model.onnx"]
    assert " MB in slim, " in CliRunner().invoke(main, ["info", str(folder)]).stdout
    assert edgert.load(folder, kv="slim").generate([1, 2, 3], max_tokens=4, temperature=0.0).token_ids
    export(checkpoints("llama"), folder, ExportOptions(kv="slim", force=True, **options))
    monkeypatch.undo()
    refused = CliRunner().invoke(main, ["info", str(folder)])
    assert 'graphs.model-slim.onnx.kv: "slim" is none of fp32, int8' in refused.stderr
