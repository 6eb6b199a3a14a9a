"""int8 for cores without dotprod: whole integer products, in a basis that allows one scale per row."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import tiny

import edgert
from edgert import devices
from edgert.engine.loading import load
from edgert.export import ExportOptions, export

IDS = np.random.default_rng(7).integers(5, tiny.VOCAB, 90).tolist()


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3", "phi3", "llama-biased"])
def pair(request, checkpoints, bundles, tmp_path_factory):
    """A bundle for the Raspberry Pi 4, and the fp32 one."""
    folder = tmp_path_factory.mktemp("rows") / "b"
    export(checkpoints(request.param), folder, ExportOptions(devices=("raspberry-pi-4",), verify=False))
    return folder, bundles(request.param, "fp32")


def test_predictions_are_near_the_original(pair):
    rows, exact = (edgert.load(bundle).logits(IDS) for bundle in pair)
    error = np.sqrt(((rows - exact) ** 2).mean()) / np.sqrt((exact**2).mean())
    assert 0 < error < 0.05


def test_every_product_has_a_kernel_without_dotprod(pair):
    model = ir.load(pair[0] / "model.onnx")
    kinds = {node.op_type for node in model.graph}
    assert "QGemm" in kinds and not kinds & {"MatMulNBits", "GatherBlockQuantized", "DynamicQuantizeLinear"}


def test_decoding_equals_reading_the_whole(pair):
    """Each token has its own scale: how a prompt is cut changes only the last bits of attention, and a code
    that these push over an edge.
    """
    decoder = load(edgert.open_bundle(pair[0]), devices.detect().profile).decoder
    whole, slot = decoder.score(IDS), decoder.afresh()
    steps = [decoder.extend(slot, IDS[:5])[0]]
    steps += [decoder.decode([slot], [token])[0].copy() for token in IDS[5:]]
    difference = np.abs(np.array(steps) - whole[4:])
    assert np.sqrt((difference**2).mean()) < 0.02 * np.sqrt((whole**2).mean())


def test_several_at_once_say_what_each_says_alone(pair):
    """Rows of the cache share runs, and integer products are exact."""
    with edgert.load(pair[0], conversations=3) as model:
        prompts = [IDS[:9], IDS[5:40], IDS[20:60]]
        alone = [model.generate(prompt, max_tokens=12, fresh=True).token_ids for prompt in prompts]
        streams = [model.stream(prompt, max_tokens=12) for prompt in prompts]
        assert [stream.reply.token_ids for stream in streams] == alone


def test_tied_tables_are_stored_once(pair):
    model = edgert.open_bundle(pair[0]).manifest
    tensors = {
        name: value.const_value for name, value in ir.load(pair[0] / "model.onnx").graph.initializers.items()
    }
    if model.model.tied_embeddings:
        table, matrix = tensors["embedding.table.codes"], tensors["embedding.matrix.codes"]
        assert (table.offset, table.length) == (matrix.offset, matrix.length)
    assert model.quantization.bits_per_weight < 9 and model.devices == ("raspberry-pi-4",)


def test_both_signs_of_the_weights_give_the_same_bits(tmp_path):
    """Wide enough for constants that graphs share in the data file, which must not be those of the other."""
    wide = tiny.Tiny("llama", overrides={"intermediate_size": 1088})
    bundle = export(tiny.write(tmp_path / "wide", wide), tmp_path / "b", ExportOptions(verify=False))
    decoders = []
    for saturates in (False, True):
        path = bundle.graph_path("model.onnx", saturates=saturates)
        alone = replace(bundle.manifest.graphs["model.onnx"], unsigned="")
        manifest = replace(bundle.manifest, graphs={path.name: alone})
        decoders.append(load(replace(bundle, manifest=manifest), devices.detect().profile).decoder)
    signed, unsigned = (decoder.score(IDS) for decoder in decoders)
    assert np.array_equal(signed, unsigned)
