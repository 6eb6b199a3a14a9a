"""GGUF files give the same model as the Hugging Face folder they were converted from."""

import json

import gguf
import numpy as np
import pytest
import tiny
from tokenizers import Tokenizer

from edgert import load
from edgert.errors import CheckpointError
from edgert.export import ExportOptions, export
from edgert.export.checkpoint.gguf_tokenizer import rebuild
from edgert.export.checkpoint.source import open_checkpoint

IDS = np.random.default_rng(3).integers(5, tiny.VOCAB, 40).tolist()
TYPES = gguf.GGMLQuantizationType
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",  # with norms after attention and MLP: POST_NORMS
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
POST_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
SAMPLES = [
    "Hello, world! I'll say it's 12345 times.",
    "def f(x):\n    return x**2  # naïve\n\n\n",
    "Größe, ça va? 東京は日本の首都です。 Привет",
    "🎉👩‍👩‍👧 emoji\tand\ttabs   and   spaces ",
    "<|im_start|>user\nHi<|im_end|>",
]


def theirs(name, post_norms=False):
    """A tensor's GGUF name."""
    names = NAMES | POST_NORMS if post_norms else NAMES
    stem, _, kind = name.rpartition(".")
    if stem.startswith("model.layers."):
        _, _, layer, rest = stem.split(".", 3)
        return f"blk.{layer}.{names[rest]}.{kind}"
    return f"{names[stem]}.{kind}"


def interleave(array, heads):
    """The order of rows in which converters store q and k of llama models."""
    return array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def write(path, config, tensors, kind=TYPES.F32, tokens=None, extra=()):
    """A GGUF file as llama.cpp's converter would write it; `extra`: more metadata, float32 by key."""
    architecture = {"mistral": "llama", "gemma3_text": "gemma3"}.get(
        config["model_type"], config["model_type"]
    )
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    if architecture == "granite":
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    for key, value in dict(extra).items():
        writer.add_float32(key.format(architecture), value)
    add_tokenizer(writer, tokens or tiny.tokenizer().to_str())
    for name, array in tensors.items():
        add_tensor(writer, config, architecture, name, array, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tensor(writer, config, architecture, name, array, kind):
    interleaved = architecture in ("llama", "smollm3", "granite")
    if interleaved and ".q_proj" in name:
        array = interleave(array, config["num_attention_heads"])
    if interleaved and ".k_proj" in name:
        array = interleave(array, config["num_key_value_heads"])
    if architecture == "gemma3" and "norm" in name:
        array = array + 1
    name = theirs(name, post_norms=architecture in ("gemma3", "olmo2"))
    if array.ndim == 1 or kind == TYPES.F32:
        writer.add_tensor(name, array)
    else:
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)


def add_tokenizer(writer, source, pre="gpt-2"):
    model, added = json.loads(source)["model"], json.loads(source)["added_tokens"]
    special = {entry["id"]: entry["special"] for entry in added}
    names = {number: token for token, number in model["vocab"].items()} | {
        e["id"]: e["content"] for e in added
    }
    size = max(names) + 1
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([names.get(i, f"[PAD{i}]") for i in range(size)])
    writer.add_token_types(
        [3 if special.get(i) else 4 if i in special else 1 if i in names else 5 for i in range(size)]
    )
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(tiny.TEMPLATE)


def logits(source, folder):
    export(source, folder, ExportOptions(quant="fp32"))
    return load(folder, context=64).logits(IDS)


@pytest.mark.parametrize(
    "family",
    [
        "llama",
        "llama-biased",
        "llama-yarn",
        "mistral",
        "qwen2",
        "qwen3",
        "phi3",
        "granite",
        "granite-untied",
        "olmo2",
    ],
)
def test_gguf_equals_the_folder_it_was_made_from(family, checkpoints, tmp_path):
    config = tiny.Tiny(family).config
    path = write(tmp_path / "model.gguf", config, tiny.random_tensors(config))
    assert np.abs(logits(path, tmp_path / "a") - logits(checkpoints(family), tmp_path / "b")).max() < 1e-4


def test_gguf_of_gemma3_equals_its_folder(tmp_path):
    """Files don't say how queries are scaled, which layers have a window, nor, mostly, how these rotate."""
    layers = [*["sliding_attention"] * 5, "full_attention", "sliding_attention"]
    known = {"query_pre_attn_scalar": 32, "layer_types": layers, "rope_local_base_freq": 10000.0}
    spec = tiny.Tiny("gemma3", overrides=known)
    path = write(tmp_path / "model.gguf", spec.config, tiny.random_tensors(spec.config))
    folder = tiny.write(tmp_path / "c", spec)
    assert np.abs(logits(path, tmp_path / "a") - logits(folder, tmp_path / "b")).max() < 1e-4
    extra = {"{}.rope.freq_base_swa": 500.0}
    path = write(tmp_path / "other.gguf", spec.config, tiny.random_tensors(spec.config), extra=extra)
    assert open_checkpoint(path).spec.local_rope.theta == 500.0


@pytest.mark.parametrize("key", ["attn_factor", "yarn_attn_factor"])
@pytest.mark.parametrize(
    "theirs", [{"attn_factor": 0.8782488562869419}, {"attention_factor": 1.0}], ids=["vllm", "transformers"]
)
def test_attention_factors_of_yarn_are_honoured(key, theirs, tmp_path):
    """As R1-0528-Qwen3-8B has it: times YaRN's own factor, 1 + 0.1 ln 4, it is 1."""
    config = tiny.Tiny("qwen3", overrides={"rope_scaling": {**YARN, **theirs}}).config
    tensors = tiny.random_tensors(config)
    extra = {f"{{}}.rope.scaling.{key}": 0.8782488562869419}
    path = write(tmp_path / "model.gguf", {**config, "rope_scaling": YARN}, tensors, extra=extra)
    folder = tiny.write(tmp_path / "c", tiny.Tiny("qwen3", overrides={"rope_scaling": {**YARN, **theirs}}))
    ropes = [open_checkpoint(source).spec.rope for source in (path, folder)]
    assert [rope.attention_factor for rope in ropes] == pytest.approx([1.0, 1.0])
    assert np.abs(logits(path, tmp_path / "a") - logits(folder, tmp_path / "b")).max() < 1e-4


def test_sampling_settings_are_read(tmp_path):
    config = tiny.Tiny().config
    named = {"temp": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05, "penalty_repeat": 1.1}
    extra = {f"general.sampling.{name}": value for name, value in named.items()}
    path = write(tmp_path / "model.gguf", config, tiny.random_tensors(config), extra=extra)
    found = open_checkpoint(path).generation
    assert (found.temperature, found.top_k, found.top_p) == (0.6, 20, 0.95)
    assert (found.min_p, found.repetition_penalty) == (0.05, 1.1)


def test_without_sampling_settings_answers_are_greedy(tmp_path):
    config = tiny.Tiny().config
    path = write(
        tmp_path / "model.gguf", config, tiny.random_tensors(config), extra={"general.sampling.top_k": -1}
    )
    found = open_checkpoint(path).generation
    assert (found.temperature, found.top_k, found.top_p) == (0.0, 0, 1.0)


@pytest.mark.parametrize(
    ("extra", "expected"), [({}, (0.6, 0.95)), ({"general.sampling.temp": 0.7}, (0.7, 1.0))]
)
def test_thinking_students_that_name_no_temperature_get_the_recommended_one(
    extra, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr(tiny, "TEMPLATE", tiny.TEMPLATE.replace("<|assistant|>", "<|assistant|><think>"))
    config = tiny.Tiny().config
    path = write(tmp_path / "model.gguf", config, tiny.random_tensors(config), extra=extra)
    found = open_checkpoint(path).generation
    assert (found.temperature, found.top_p) == expected


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0"])
def test_stored_types_are_dequantized_as_gguf_defines_them(kind, tmp_path):
    """The reference is a folder of the dequantized weights; q and k are compared after their reordering."""
    config, kind = tiny.Tiny().config, TYPES[kind]
    tensors = tiny.random_tensors(config)
    path = write(tmp_path / "model.gguf", config, tensors, kind)
    rounded = {n: t if t.ndim == 1 else rounded_to(kind, t) for n, t in tensors.items()}
    folder = tiny.write(tmp_path / "checkpoint")
    tiny.save_tensors(folder, rounded)
    assert np.abs(logits(path, tmp_path / "a") - logits(folder, tmp_path / "b")).max() < 1e-4


def rounded_to(kind, array):
    return gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind).reshape(array.shape)


@pytest.mark.parametrize(("kind", "scale_offsets"), [("Q4_K", (0, 2)), ("Q6_K", (208,)), ("Q5_K", (0, 2))])
def test_k_quants_are_read_a_few_rows_at_a_time(kind, scale_offsets, tmp_path):
    """Any bytes are a valid block once its float16 scales are sane."""
    config = {**tiny.Tiny().config, "hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 8}
    path = write(
        tmp_path / "model.gguf", config, k_quantized(config, TYPES[kind], scale_offsets), TYPES[kind]
    )
    checkpoint = open_checkpoint(path)
    tensor = checkpoint.tensors["layers.0.down.weight"]
    whole = tensor.rows(0, 256)
    assert np.isfinite(whole).all() and whole.std() > 0
    assert np.array_equal(np.concatenate([tensor.rows(i, i + 5) for i in range(0, 250, 5)]), whole[:250])


def k_quantized(config, kind, scale_offsets):
    """Tensors whose matrices are random blocks; quantize() is told to pass bytes through."""
    rng = np.random.default_rng(0)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    made = {}
    for name, shape in tiny.shapes(config).items():
        if len(shape) == 1:
            made[name] = np.ones(shape, np.float32)
            continue
        raw = rng.integers(0, 256, (shape[0] * shape[1] // block, size), np.uint8)
        for offset in scale_offsets:
            raw[:, offset : offset + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
        made[name] = raw.reshape(shape[0], -1)
    return made


@pytest.fixture(autouse=True)
def _raw_blocks_pass(monkeypatch):
    """gguf can read K-quants but not make them: let uint8 arrays through as they are."""
    quantize = gguf.quants.quantize
    passing = lambda array, kind: array if array.dtype == np.uint8 else quantize(array, kind)  # noqa: E731
    monkeypatch.setattr(gguf.quants, "quantize", passing)


def test_rope_factors_of_llama3_files_are_honoured(tmp_path, checkpoints):
    config = tiny.Tiny("llama3").config
    from edgert.export.checkpoint.families import spec_from_config

    divisors = np.array(spec_from_config(config).rope.divisors, np.float32)
    tensors = tiny.random_tensors(config)
    NAMES["rope_freqs"] = "rope_freqs"
    path = write(tmp_path / "model.gguf", config, {**tensors, "rope_freqs.weight": divisors})
    assert np.abs(logits(path, tmp_path / "a") - logits(checkpoints("llama3"), tmp_path / "b")).max() < 1e-4


def test_unknown_architecture_is_named(tmp_path):
    config = {**tiny.Tiny().config, "model_type": "rwkv6"}
    path = write(tmp_path / "model.gguf", config, tiny.random_tensors(config))
    with pytest.raises(CheckpointError, match="architecture 'rwkv6' is not supported"):
        open_checkpoint(path)


def test_a_cap_on_logits_is_refused(tmp_path):
    config = tiny.Tiny("gemma3").config
    extra = {"{}.final_logit_softcapping": 30.0}
    path = write(tmp_path / "model.gguf", config, tiny.random_tensors(config), extra=extra)
    with pytest.raises(CheckpointError, match="final_logit_softcapping is not supported"):
        open_checkpoint(path)


def test_missing_tensor_is_named(tmp_path):
    config = tiny.Tiny().config
    tensors = tiny.random_tensors(config)
    del tensors["model.layers.2.mlp.down_proj.weight"]
    path = write(tmp_path / "model.gguf", config, tensors)
    with pytest.raises(CheckpointError, match="'blk.2.ffn_down.weight'"):
        open_checkpoint(path)


def test_a_file_that_is_not_gguf_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not a model at all, just some text")
    with pytest.raises(CheckpointError, match="model.gguf: truncated, or not a GGUF file"):
        open_checkpoint(path)


def test_a_truncated_file_is_refused(tmp_path):
    config = tiny.Tiny().config
    path = write(tmp_path / "model.gguf", config, tiny.random_tensors(config))
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match="model.gguf: truncated, or not a GGUF file"):
        open_checkpoint(path)


def test_turn_tokens_of_phi3_take_the_white_space_behind_them():
    """As in its own tokenizer.json; GGUF doesn't keep it."""
    metadata = {
        "general.architecture": "phi3",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "<|user|>", "\u2581", "H", "i"],
        "tokenizer.ggml.scores": [0.0] * 6,
        "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1],
        "tokenizer.ggml.add_space_prefix": False,
    }
    tokenizer = Tokenizer.from_str(rebuild(metadata).tokenizer)
    assert tokenizer.encode("<|user|>\n Hi").ids == [2, 4, 5]


def test_real_r1_tokenizer_survives_the_trip(r1_tokenizer, tmp_path):
    """Rebuilt from metadata, it splits every sample into the same ids as its own tokenizer.json."""
    writer = gguf.GGUFWriter(tmp_path / "r1.gguf", "qwen2")
    add_tokenizer(writer, r1_tokenizer, pre="deepseek-r1-qwen")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    fields = gguf.GGUFReader(tmp_path / "r1.gguf").fields
    rebuilt = Tokenizer.from_str(rebuild({key: field.contents() for key, field in fields.items()}).tokenizer)
    original = Tokenizer.from_str(r1_tokenizer)
    for sample in [*SAMPLES, "<｜User｜>Hi<｜Assistant｜><think>\nHm.\n</think>"]:
        ids = original.encode(sample, add_special_tokens=False).ids
        assert rebuilt.encode(sample, add_special_tokens=False).ids == ids
        assert rebuilt.decode(ids) == original.decode(ids)


def test_sentencepiece_tokens_merge_by_score():
    """The pieces of "▁hello": the best-scored merge first, bytes for what no piece covers."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "h", "e", "l", "o"]
    scored = {"he": -1.0, "ll": -2.0, "hell": -3.0, "hello": -4.0, "▁hello": -5.0, "lo": -9.0}
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*pieces, *scored],
        "tokenizer.ggml.scores": [0.0] * 259 + [-20.0] * 5 + list(scored.values()),
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * 11,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    tokenizer = Tokenizer.from_str(rebuild(metadata).tokenizer)
    assert tokenizer.encode("hello hello").tokens == ["▁hello", "▁hello"]
    assert tokenizer.encode("héllo").tokens == ["▁", "h", "<0xC3>", "<0xA9>", "ll", "o"]
    assert tokenizer.decode(tokenizer.encode("hello héllo").ids) == "hello héllo"


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("dbrx", ["It", "'s", " CamelCase", " ", "123", "45", "!"]),
        ("gpt-4o", ["It's", " Camel", "Case", " ", "123", "45", "!"]),
    ],
)
def test_pre_tokenizers_of_olmo2_and_phi4_mini(pre, expected):
    """Single letters merge into nothing here, so what counts is where the text is cut."""
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": ["a"],
        "tokenizer.ggml.merges": [],
    }
    cut = Tokenizer.from_str(rebuild(metadata).tokenizer).pre_tokenizer.pre_tokenize_str(
        "It's CamelCase 12345!"
    )
    assert [text.replace("\u0120", " ") for text, _ in cut] == expected


@pytest.mark.parametrize("change", [{"tokenizer.ggml.model": "bert"}, {"tokenizer.ggml.pre": "unheard-of"}])
def test_tokenizers_that_cannot_be_rebuilt_are_named(change):
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": ["a"]}
    with pytest.raises(ValueError, match=next(iter(change.values()))):
        rebuild({**metadata, "tokenizer.ggml.merges": [], **change})
