"""Tiny random checkpoints, one of each family, written as transformers would save them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB = 320
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# One that takes tools, and has calls as Qwen's has them.
TOOL_TEMPLATE = (
    "{{ bos_token }}{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    '{% for call in message.tool_calls or [] %}\n<tool_call>\n{"name": "{{ call.function.name }}", '
    '"arguments": {{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|end|>{% endfor %}'
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
TEXT = ["the quick brown fox jumps over the lazy dog", "the capital of France is Paris", "one two three 123"]

BASE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0 + i / 8 for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
}

GEMMA3: dict[str, Any] = {
    "model_type": "gemma3_text",
    "hidden_activation": "gelu_pytorch_tanh",
    "head_dim": 32,
    "query_pre_attn_scalar": 24,
    "num_hidden_layers": 7,
    "layer_types": [*["sliding_attention"] * 5, "full_attention", "sliding_attention"],
    "sliding_window": 24,
    "rope_theta": 100000.0,
    "rope_local_base_freq": 500.0,
    "tie_word_embeddings": True,
}

# Every family and every switch of a config that changes the graph.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": True},
    "llama3": {"model_type": "llama", "rope_scaling": LLAMA3, "tie_word_embeddings": False},
    "llama-biased": {
        "model_type": "llama",
        "attention_bias": True,
        "mlp_bias": True,
        "num_key_value_heads": 4,
    },
    "llama-linear": {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama-transformers5": {"model_type": "llama", "rope_parameters": {**LLAMA3, "rope_theta": 500000.0}},
    "llama-yarn": {
        "model_type": "llama",
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    },
    "mistral": {"model_type": "mistral", "sliding_window": 24, "head_dim": 32},
    "qwen2": {
        "model_type": "qwen2",
        "tie_word_embeddings": False,
        "sliding_window": 4096,
        "use_sliding_window": False,
    },
    "qwen2-tied": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2-window": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 16,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True},
    "smollm3": {"model_type": "smollm3", "no_rope_layers": [1, 0, 1], "tie_word_embeddings": True},
    "phi3": {"model_type": "phi3", "sliding_window": 24},
    "phi4-mini": {
        "model_type": "phi3",
        "head_dim": 64,
        "partial_rotary_factor": 0.75,
        "tie_word_embeddings": True,
        "sliding_window": None,
    },
    "gemma3": GEMMA3,
    "gemma3-transformers5": {
        **GEMMA3,
        "num_hidden_layers": 3,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 100000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
        },
    },
    "granite": {
        "model_type": "granite",
        "tie_word_embeddings": True,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.15,
        "logits_scaling": 2.0,
    },
    "granite-untied": {
        "model_type": "granite",
        "tie_word_embeddings": False,
        "attention_bias": True,
        "mlp_bias": True,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.5,
        "logits_scaling": 0.5,
    },
    "olmo2": {"model_type": "olmo2", "tie_word_embeddings": False},
    "phi3-longrope": {
        "model_type": "phi3",
        "rope_scaling": LONGROPE,
        "original_max_position_embeddings": 128,
        "sliding_window": None,
    },
}


NORMS = {
    "llama": ["input_layernorm", "post_attention_layernorm"],
    "olmo2": ["post_attention_layernorm", "post_feedforward_layernorm"],
    "gemma3_text": [
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ],
}


@dataclass(frozen=True)
class Tiny:
    """What to write: a config's name, overrides of it, the stored dtype, how many shards."""

    family: str = "llama"
    overrides: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    shards: int = 1
    generation: dict[str, Any] = field(default_factory=dict)
    template: str = TEMPLATE
    seed: int = 0

    @property
    def config(self) -> dict[str, Any]:
        return {**BASE, **CONFIGS[self.family], **self.overrides}


def write(folder: Path, tiny: Tiny | None = None) -> Path:
    """Write the checkpoint folder and return it."""
    tiny = tiny or Tiny()
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", tiny.config)
    if tiny.generation:
        _write_json(folder / "generation_config.json", tiny.generation)
    _write_tokenizer(folder, tiny.template)
    save_tensors(folder, random_tensors(tiny.config, tiny.seed), tiny.dtype, tiny.shards)
    return folder


def random_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under Hugging Face names, large enough that every term of the model matters."""
    rng = np.random.default_rng(seed)
    return {
        name: (
            (0.0 if config["model_type"] == "gemma3_text" else 1.0) + 0.2 * rng.standard_normal(shape)
            if "norm" in name
            else rng.standard_normal(shape) * shape[-1] ** -0.5
        ).astype(np.float32)
        for name, shape in shapes(config).items()
    }


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a config, as transformers' classes define them."""
    kind, hidden, inner = config["model_type"], config["hidden_size"], config["intermediate_size"]
    dim = config.get("head_dim") or (128 if kind == "qwen3" else hidden // config["num_attention_heads"])
    q, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    named: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    named["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings", kind == "smollm3"):
        named["lm_head.weight"] = (config["vocab_size"], hidden)
    biased = config.get("attention_bias", False)
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        named |= {p + f"{norm}.weight": (hidden,) for norm in NORMS.get(kind, NORMS["llama"])}
        if kind == "phi3":
            named[p + "self_attn.qkv_proj.weight"] = (q + 2 * kv, hidden)
            named[p + "mlp.gate_up_proj.weight"] = (2 * inner, hidden)
        else:
            for name, rows in (("q", q), ("k", kv), ("v", kv)):
                named[p + f"self_attn.{name}_proj.weight"] = (rows, hidden)
                if biased or kind == "qwen2":
                    named[p + f"self_attn.{name}_proj.bias"] = (rows,)
            for name in ("gate", "up"):
                named[p + f"mlp.{name}_proj.weight"] = (inner, hidden)
                if config.get("mlp_bias"):
                    named[p + f"mlp.{name}_proj.bias"] = (inner,)
        named[p + "self_attn.o_proj.weight"] = (hidden, q)
        named[p + "mlp.down_proj.weight"] = (hidden, inner)
        if biased and kind in ("llama", "qwen3", "smollm3", "granite"):
            named[p + "self_attn.o_proj.bias"] = (hidden,)
        if config.get("mlp_bias"):
            named[p + "mlp.down_proj.bias"] = (hidden,)
        if kind in ("qwen3", "gemma3_text"):
            named[p + "self_attn.q_norm.weight"] = named[p + "self_attn.k_norm.weight"] = (dim,)
        if kind == "olmo2":
            named |= {p + "self_attn.q_norm.weight": (q,), p + "self_attn.k_norm.weight": (kv,)}
    return named


def save_tensors(
    folder: Path, tensors: dict[str, np.ndarray], dtype: str = "float32", shards: int = 1
) -> None:
    """Write safetensors, with an index if there are several shards."""
    kind = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    stored = {name: np.ascontiguousarray(array.astype(kind)) for name, array in tensors.items()}
    if shards == 1:
        save_file(stored, folder / "model.safetensors")
        return
    index = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(stored)}
    for file in set(index.values()):
        save_file({name: array for name, array in stored.items() if index[name] == file}, folder / file)
    _write_json(folder / "model.safetensors.index.json", {"weight_map": index})


def tokenizer() -> Tokenizer:
    """A byte-level BPE of VOCAB tokens; ids 0 to 4 are SPECIAL."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXT * 8, trainer)
    return made


def _write_tokenizer(folder: Path, template: str) -> None:
    tokenizer().save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": "<|bos|>",
        "eos_token": {"content": "<|end|>", "lstrip": False},
        "add_bos_token": True,
        "chat_template": template,
    }
    _write_json(folder / "tokenizer_config.json", config)


def _write_json(path: Path, table: dict[str, Any]) -> None:
    path.write_text(json.dumps(table), "utf-8")
