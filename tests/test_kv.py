"""Keys and values in 8 bits: a quarter of the memory, nearly the same predictions, the same rules."""

import numpy as np
import pytest
import tiny
from click.testing import CliRunner

import edgert
from edgert import UsageError, open_bundle
from edgert.cli import main
from edgert.devices import detect
from edgert.engine.loading import load
from edgert.export import ExportOptions, export

IDS = np.random.default_rng(7).integers(5, tiny.VOCAB, 90).tolist()
FAMILIES = ["llama", "qwen2-window", "qwen3", "smollm3", "phi3"]


@pytest.fixture(scope="module", params=FAMILIES)
def bundle(request, checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kv") / "b"
    options = ExportOptions(quant="fp32", kv="int8", verify=False)
    return export(checkpoints(request.param), folder, options).folder


def test_8_bits_are_close_and_not_the_same(bundle):
    eight, full = (edgert.load(bundle, kv=kv).logits(IDS) for kv in ("int8", "fp32"))
    error = np.sqrt(((eight - full) ** 2).mean()) / np.sqrt((full**2).mean())
    assert 0 < error < 0.06  # these tokens were drawn by lot: some reach beyond what calibration saw


def test_a_bundle_made_for_8_bits_uses_them(bundle):
    model = edgert.load(bundle)
    assert model.kv == "int8" and list(open_bundle(bundle).manifest.graphs) == [
        "model-kv8.onnx",
        "model.onnx",
    ]
    assert edgert.load(bundle, kv="fp32").kv == "fp32"


def test_decoding_equals_reading_the_whole(bundle):
    """Both quantize the same keys in the same way; only sums are in another order."""
    decoder = load(open_bundle(bundle), detect().profile).decoder
    whole, slot = decoder.score(IDS), decoder.afresh()
    steps = [decoder.extend(slot, IDS[:5])[0]]
    steps += [decoder.decode([slot], [token])[0].copy() for token in IDS[5:]]
    difference = np.abs(np.array(steps) - whole[4:])
    assert np.sqrt((difference**2).mean()) < 0.01 * np.sqrt((whole**2).mean())


def test_a_rewound_cache_equals_a_fresh_one(bundle):
    decoder = load(open_bundle(bundle), detect().profile).decoder
    fresh = decoder.extend(decoder.afresh(), IDS[:30])
    slot = decoder.afresh()
    decoder.extend(slot, IDS[:20] + IDS[40:60])
    slot.rewind(20)
    again = decoder.extend(slot, IDS[20:30])
    assert np.sqrt(((again - fresh) ** 2).mean()) < 0.01 * np.sqrt((fresh**2).mean())


def test_the_cache_takes_a_quarter(bundle):
    facts = open_bundle(bundle).manifest.model
    pools = [
        load(open_bundle(bundle), detect().profile, 100, kv).decoder.runner.pool for kv in ("int8", "fp32")
    ]
    sizes = [sum(value.numpy().nbytes for value in pool.view(0, 1).values()) for pool in pools]
    assert sizes[0] * 4 == sizes[1] == 2 * facts.num_layers * facts.num_kv_heads * facts.head_dim * 100 * 4


def test_a_cache_that_the_bundle_has_not_is_refused(bundles):
    with pytest.raises(UsageError, match=r"caches keys and values in fp32 only: export it with --kv int8"):
        edgert.load(bundles(), kv="int8")
    result = CliRunner().invoke(main, ["generate", str(bundles()), "-p", "fox", "--kv", "int8"])
    assert result.exit_code == UsageError.exit_code and "--kv int8" in result.stderr


def test_info_tells_both_sizes(bundle):
    facts = open_bundle(bundle).manifest.model
    mb = 2 * facts.num_layers * facts.num_kv_heads * facts.head_dim / 1e3
    screen = CliRunner().invoke(main, ["info", str(bundle)]).stdout
    assert f"of KV cache per 1,000: {mb:.1f} MB in int8, {4 * mb:.1f} MB in fp32" in screen


def test_far_positions_are_not_clipped(checkpoints, tmp_path):
    """Slow pairs of channels have hardly turned within the calibration windows; far along they have."""
    source = tiny.write(tmp_path / "c", tiny.Tiny("qwen2", overrides={"max_position_embeddings": 4096}))
    tensors = tiny.random_tensors(tiny.Tiny("qwen2").config)
    for layer in range(3):  # as in the R1 students: large biases on single channels of k
        tensors[f"model.layers.{layer}.self_attn.k_proj.bias"][7::16] += 8
    tiny.save_tensors(source, tensors)
    bundle = export(source, tmp_path / "b", ExportOptions(quant="fp32", kv="int8", verify=False)).folder
    ids = np.random.default_rng(1).integers(5, tiny.VOCAB, 3000).tolist()
    eight, full = (edgert.load(bundle, kv=kv, context=3000).logits(ids) for kv in ("int8", "fp32"))
    near, far = (
        np.sqrt(((eight[part] - full[part]) ** 2).mean()) / np.sqrt((full[part] ** 2).mean())
        for part in (slice(0, 200), slice(2800, 3000))
    )
    assert far < 2 * near < 0.2
