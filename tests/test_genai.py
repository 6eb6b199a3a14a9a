"""The bundle opens in the real onnxruntime-genai and says the same."""

import lora
import numpy as np
import pytest
import tiny

import edgert
from edgert.engine.attention import VARIABLE
from edgert.export import ExportOptions, export

og = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai has no wheel for this platform")


def genai_greedy(bundle, ids, count):
    model = og.Model(str(bundle))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(ids) + count, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens(ids)
    said = []
    while not generator.is_done() and len(said) < count:
        generator.generate_next_token()
        said.append(int(generator.get_next_tokens()[0]))
    return said


@pytest.mark.parametrize("quant", ["int8", "fp32"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3"])
def test_same_greedy_tokens_for_every_family(family, quant, bundles):
    bundle = bundles(family, quant)
    ids = tiny.tokenizer().encode("the quick brown fox jumps").ids
    ours = list(edgert.load(bundle).generate(ids, max_tokens=20, temperature=0.0).token_ids)
    theirs = genai_greedy(bundle, ids, 20)
    assert theirs[: len(ours)] == ours
    assert len(ours) == 20 or theirs[len(ours)] == 1  # they report the end token, edgert does not


def test_adapters_of_a_bundle_are_chosen_there_too(checkpoints, tmp_path):
    """By genai's own calls, from the bundle's own files."""
    bundle, base = tmp_path / "bundle", tiny.random_tensors(tiny.Tiny().config)
    modules = [name.removesuffix(".weight") for name in base if name.endswith("_proj.weight")]
    folder = lora.write(tmp_path / "law", lora.uniform(modules, 2.0, target_modules="all-linear"), base)
    export(checkpoints("llama"), bundle, ExportOptions(separate_adapters={"law": folder}, verify=False))
    ids = tiny.tokenizer().encode("the quick brown fox jumps").ids
    theirs = og.Model(str(bundle))
    adapters = og.Adapters(theirs)
    adapters.load(str(bundle / "adapters" / "law.onnx_adapter"), "law")
    with edgert.load(bundle) as ours:
        for name in (None, "law"):
            ours.use(name)
            parameters = og.GeneratorParams(theirs)
            parameters.set_search_options(max_length=64)
            generator = og.Generator(theirs, parameters)
            if name:
                generator.set_active_adapter(adapters, name)
            generator.append_tokens(ids)
            assert np.abs(np.array(generator.get_logits())[0, -1] - ours.logits(ids)[-1]).max() < 1e-3


@pytest.mark.student
def test_same_tokens_and_tokenizer_on_the_real_student(student, monkeypatch):
    monkeypatch.setenv(VARIABLE, "0")  # as it attends
    model = edgert.load(student)
    ids = model.tokens_of("Why is the sky blue?")
    ours = list(model.generate(ids, max_tokens=60, temperature=0.0).token_ids)
    assert genai_greedy(student, ids, 60)[: len(ours)] == ours
    text = "Naïve café, 12345 times: 東京 🎉"
    assert list(og.Tokenizer(og.Model(str(student))).encode(text)) == model.tokenizer.encode(text)
