"""Tiny checkpoints of many architectures by way of Optimum, against transformers. Heavy: `make test-optimum`.

EDGERT_UPDATE_DOCS=1 writes the table in docs/architectures.md anew.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from test_genai import genai_greedy

import edgert
from edgert import devices
from edgert.bundle import graph_io
from edgert.engine import golden, loading
from edgert.export import ExportOptions, export, previews
from edgert.export.optimum_road import job, tracing
from edgert.export.optimum_road.report import read_reports

pytestmark = [pytest.mark.optimum, pytest.mark.filterwarnings("ignore")]  # torch's and transformers' own

PAGE = Path(__file__).parent.parent / "docs" / "architectures.md"
UPDATE = "EDGERT_UPDATE_DOCS"
IDS = np.random.default_rng(7).integers(5, tiny.VOCAB, 90)
SPECIAL = {"vocab_size": tiny.VOCAB, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
USUAL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
}
GROUPED = {**USUAL, "num_key_value_heads": 2}
HEAD_DIM = {**GROUPED, "head_dim": 16}
WIDE = {
    **USUAL,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
}  # 16 of a head are rotated
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
NEO = {
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 4,
    "attention_types": [[["global", "local"], 1]],
    "max_position_embeddings": 256,
    "window_size": 16,
}
CONFIGS = {
    "Bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
    "CodeGen": {**GPT, "rotary_dim": 8},
    "Cohere": GROUPED,
    "Falcon": {name: USUAL[name] for name in USUAL if name != "intermediate_size"},
    "Gemma": HEAD_DIM,
    "Gemma2": {**HEAD_DIM, "sliding_window": 32, "attn_logit_softcapping": 2.0},
    "GPT2": GPT,
    "GPTBigCode": GPT,
    "GPTJ": {**GPT, "rotary_dim": 8},
    "GPTNeo": NEO,
    "GPTNeoX": {**WIDE, "rotary_pct": 0.5},
    "Glm": WIDE,
    "Granite": GROUPED,
    "Helium": HEAD_DIM,
    "Llama": GROUPED,
    "Mistral": {**GROUPED, "sliding_window": 32},
    "Mpt": {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 256},
    "Nemotron": GROUPED,
    "Olmo": USUAL,
    "Olmo2": USUAL,
    "OPT": {**USUAL, "ffn_dim": 96, "word_embed_proj_dim": 64},
    "Phi": {**WIDE, "num_key_value_heads": 2},
    "Phi3": GROUPED,
    "Qwen2": GROUPED,
    "Qwen3": HEAD_DIM,
    "SmolLM3": GROUPED,
    "StableLm": GROUPED,
}
PROMPTS = ("the quick fox", "a lazy dog jumps over", "fox")
ROWS: dict[str, str] = {}


def write(folder, name):
    """A random checkpoint; its logits, (tokens, vocab), as transformers computes them."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**CONFIGS[name], **SPECIAL)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:  # random ones are so small that every next token is as likely
            parameter.data.mul_(4)
    tiny.write(folder)
    (folder / "config.json").unlink()
    model.save_pretrained(folder)
    with torch.no_grad():
        return model(torch.tensor(IDS[None])).logits[0].numpy()


@pytest.mark.parametrize("name", CONFIGS)
def test_architecture(name, tmp_path, monkeypatch):
    expected = write(tmp_path / "c", name)
    traced = tracing.trace(tmp_path / "c", tmp_path / "traced")
    monkeypatch.setattr(job, "trace", lambda _source, _target: traced)  # once for both
    plain = export(tmp_path / "c", tmp_path / "fp32", ExportOptions(quant="fp32", via="optimum"))
    away = np.abs(edgert.load(plain.folder, context=128).logits(IDS.tolist()) - expected).max()
    assert away < 1e-3
    bundle = export(tmp_path / "c", tmp_path / "int8", ExportOptions(via="optimum"))
    bundle.check_hashes()
    foretold, found = previews(tmp_path / "c", [ExportOptions(via="optimum")])[0].model, bundle.manifest.model
    assert foretold.parameters == pytest.approx(found.parameters, rel=0.15)  # the graph has tables of rope
    assert replace(foretold, parameters=found.parameters) == found
    facts = bundle.manifest.graphs["model.onnx"]
    fidelity = facts.fidelity
    assert fidelity.mean_kl < 0.01
    loaded = loading.load_graph(bundle, devices.load("laptop-cpu"), "model.onnx", 256)
    assert golden.replay(loaded.decoder, golden.read(bundle)) <= golden.limit(bundle)
    model = edgert.load(bundle.folder, context=128, conversations=len(PROMPTS))
    streamed = "".join(chunk.text for chunk in model.stream("the quick fox", max_tokens=6))
    assert streamed == model.generate("the quick fox", max_tokens=6).text
    assert facts.cache == graph_io.SHARED
    streams = [model.stream(prompt, max_tokens=6) for prompt in PROMPTS]
    together = [stream.reply.token_ids for stream in streams]
    assert together == [model.generate(prompt, max_tokens=6).token_ids for prompt in PROMPTS]
    ids = model.tokenizer.encode("the quick brown fox")
    assert genai_greedy(bundle.folder, ids, 6) == list(model.generate(ids, max_tokens=6).token_ids)
    reports = read_reports(bundle)
    size = f"{away:.0e} | {fidelity.mean_kl:.5f} | {fidelity.top1:.1%}"
    ROWS[name] = f"| {name} | {size} | {attention(reports)} | {left(reports)} |"


def attention(reports):
    """Kinds of layers, as the pass tells them; rotary that stays in the graph isn't among them."""
    found = next(report.matched for report in reports if report.name == "attention")
    return "; ".join(sorted({layer.partition(": ")[2] for layer in found}))


def left(reports):
    return ", ".join(f"`{what}`" for report in reports for what in report.left) or "none"


def test_the_page_has_every_architecture():
    """Runs last: writes the page of what has run and passed, if that is asked for."""
    if os.environ.get(UPDATE):
        PAGE.write_text("\n".join([HEAD, *ROWS.values()]) + "\n", "utf-8", newline="\n")
    kept = PAGE.read_text("utf-8")
    assert all(f"\n| {name} | " in kept for name in CONFIGS), f"{UPDATE}=1 make test-optimum writes it anew"


HEAD = """# Architectures by way of Optimum

`edgert export --via optimum`, or `auto` for families that edgert doesn't build itself. `make test-optimum`
makes a tiny random checkpoint of each of these, exports it, and with `EDGERT_UPDATE_DOCS=1` writes this:

- **fp32**: the farthest that a logit of the fp32 bundle is from transformers' own; 1e-3 is the limit.
- **KL, top-1**: what int8 loses against fp32, in nats per token, and how often both prefer the same token.
  These weights are random: of a real student `edgert info` has the figures.
- **attention**: what the layers' attention was recognized as, by the numbers that it computes; it is
  GroupQueryAttention in the bundle then, with a cache that is written in place. "rotary": in that node, too.
- **left alone**: tables and matrices that stay fp32.

| architecture | fp32 | KL | top-1 | attention | left alone |
|---|---|---|---|---|---|"""
