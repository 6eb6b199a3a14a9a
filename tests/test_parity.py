"""The exported graph computes what the model's definition says, however it is run."""

import dataclasses

import numpy as np
import pytest
import reference
import tiny

import edgert
from edgert import devices
from edgert.bundle import open_bundle
from edgert.engine.loading import load_graph
from edgert.export import ExportOptions, export

RNG = np.random.default_rng(7)
IDS = RNG.integers(5, tiny.VOCAB, 90).tolist()


def decoder(bundle, context=128, chunk=256):
    profile = dataclasses.replace(devices.load("laptop-cpu"), prefill_chunk=chunk)
    opened = open_bundle(bundle)
    return load_graph(opened, profile, opened.graph(), context).decoder


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_fp32_logits_equal_the_reference(family, bundles):
    config = tiny.Tiny(family).config
    bundle = bundles(family, "fp32")
    context = open_bundle(bundle).manifest.model.context
    expected = reference.forward(config, tiny.random_tensors(config), IDS, context)
    found = decoder(bundle).score(IDS)
    assert np.abs(expected).max() > 1  # logits large enough that the bound below means something
    assert np.abs(found - expected).max() < 1e-3


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_prefill_in_chunks_equals_the_whole(family, bundles):
    whole, chunked = decoder(bundles(family, "fp32")), decoder(bundles(family, "fp32"), chunk=13)
    assert np.abs(whole.score(IDS) - chunked.score(IDS)).max() < 1e-4
    assert (whole.extend(whole.afresh(), IDS) == chunked.extend(chunked.afresh(), IDS)).all()


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_decode_with_cache_equals_full_forward(family, bundles):
    model = decoder(bundles(family, "fp32"))
    full = model.score(IDS)
    slot = model.afresh()
    steps = [model.extend(slot, IDS[:5])[0]]
    steps += [model.decode([slot], [token])[0].copy() for token in IDS[5:]]
    assert np.abs(np.array(steps) - full[4:]).max() < 1e-4


def test_rewound_cache_equals_a_fresh_one(bundles):
    model = decoder(bundles("qwen2", "fp32"))
    fresh = model.extend(model.afresh(), IDS[:30])
    slot = model.afresh()
    model.extend(slot, IDS[:20] + IDS[40:60])
    slot.rewind(20)
    again = model.extend(slot, IDS[20:30])
    assert slot.tokens == IDS[:30]
    assert np.abs(again - fresh).max() < 1e-4


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "phi3", "gemma3", "granite", "olmo2"])
def test_int8_stays_close_to_fp32(family, bundles):
    exact, quantized = decoder(bundles(family, "fp32")).score(IDS), decoder(bundles(family)).score(IDS)
    error = np.sqrt(((quantized - exact) ** 2).mean()) / np.sqrt((exact**2).mean())
    assert 0 < error < 0.08


@pytest.mark.parametrize(("asked", "context"), [(None, 128), (128, 128), (256, 256)])
def test_longrope_takes_the_factors_of_the_exported_context(checkpoints, tmp_path, asked, context):
    """128 tokens are Phi-3's original context here: short factors up to it, and unless more is asked for."""
    config = tiny.Tiny("phi3-longrope").config
    export(checkpoints("phi3-longrope"), tmp_path / "b", ExportOptions(quant="fp32", max_context=asked))
    assert open_bundle(tmp_path / "b").manifest.model.context == context
    expected = reference.forward(config, tiny.random_tensors(config), IDS, context)
    assert np.abs(decoder(tmp_path / "b").score(IDS) - expected).max() < 1e-3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_checkpoints_are_widened_exactly(dtype, tmp_path):
    spec = tiny.Tiny("qwen2", dtype=dtype, shards=3)
    export(tiny.write(tmp_path / "source", spec), tmp_path / "bundle", ExportOptions(quant="fp32"))
    kind = {"float16": np.float16, "bfloat16": tiny.ml_dtypes.bfloat16}[dtype]
    rounded = {n: t.astype(kind).astype(np.float32) for n, t in tiny.random_tensors(spec.config).items()}
    expected = reference.forward(spec.config, rounded, IDS)
    assert np.abs(edgert.load(tmp_path / "bundle").logits(IDS) - expected).max() < 1e-3
