"""An independent forward pass in NumPy, float64, from a Hugging Face config and its tensors.

Written from the models' definitions and sharing no code with edgert.export; `make test-parity` holds it
against transformers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray
Tensors = dict[str, Array]
Config = dict[str, Any]


def forward(config: Config, tensors: Tensors, ids: list[int], context: int | None = None) -> Array:
    """Logits after every token, (len(ids), vocab). `context` decides between LongRoPE's two factor sets."""
    w = {name: array.astype(np.float64) for name, array in tensors.items()}
    x = w["model.embed_tokens.weight"][ids] * config.get("embedding_multiplier", 1.0)
    if config["model_type"] == "gemma3_text":
        x = x * math.sqrt(config["hidden_size"])
    for layer in range(config["num_hidden_layers"]):
        x = block(config, w, layer, x, context)
    x = rms_norm(x, w["model.norm.weight"], config)
    logits = x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T
    return logits / config.get("logits_scaling", 1.0)


def block(config: Config, w: Tensors, layer: int, x: Array, context: int | None) -> Array:
    """One layer, with norms before attention and MLP, after them (OLMo 2), or both (Gemma 3)."""
    p = f"model.layers.{layer}."

    def norm(name: str, y: Array) -> Array:
        return rms_norm(y, w[f"{p}{name}.weight"], config)

    if config["model_type"] == "olmo2":
        x = x + norm("post_attention_layernorm", attention(config, w, p, layer, x, context))
        return x + norm("post_feedforward_layernorm", mlp(config, w, p, x))
    if config["model_type"] == "gemma3_text":
        attended = attention(config, w, p, layer, norm("input_layernorm", x), context)
        x = x + norm("post_attention_layernorm", attended)
        return x + norm("post_feedforward_layernorm", mlp(config, w, p, norm("pre_feedforward_layernorm", x)))
    scale = config.get("residual_multiplier", 1.0)
    x = x + scale * attention(config, w, p, layer, norm("input_layernorm", x), context)
    return x + scale * mlp(config, w, p, norm("post_attention_layernorm", x))


def rms_norm(x: Array, weight: Array, config: Config) -> Array:
    if config["model_type"] == "gemma3_text":
        weight = 1 + weight
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + config["rms_norm_eps"]) * weight


def linear(w: Tensors, name: str, x: Array) -> Array:
    return x @ w[name + ".weight"].T + w.get(name + ".bias", 0.0)


def mlp(config: Config, w: Tensors, p: str, x: Array) -> Array:
    if config["model_type"] == "phi3":
        gate, up = np.split(linear(w, p + "mlp.gate_up_proj", x), 2, axis=-1)
    else:
        gate, up = linear(w, p + "mlp.gate_proj", x), linear(w, p + "mlp.up_proj", x)
    return linear(w, p + "mlp.down_proj", activation(config, gate) * up)


def activation(config: Config, x: Array) -> Array:
    if config.get("hidden_activation") == "gelu_pytorch_tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x / (1 + np.exp(-x))


def attention(config: Config, w: Tensors, p: str, layer: int, x: Array, context: int | None) -> Array:
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    dim = config.get("head_dim") or config["hidden_size"] // heads
    q, k, v = qkv(config, w, p, x, heads * dim, kv_heads * dim)
    if config["model_type"] == "olmo2":
        q = rms_norm(q, w[p + "self_attn.q_norm.weight"], config)
        k = rms_norm(k, w[p + "self_attn.k_norm.weight"], config)
    q, k, v = (y.reshape(len(x), -1, dim).swapaxes(0, 1) for y in (q, k, v))  # (heads, tokens, dim)
    if config["model_type"] in ("qwen3", "gemma3_text"):
        q = rms_norm(q, w[p + "self_attn.q_norm.weight"], config)
        k = rms_norm(k, w[p + "self_attn.k_norm.weight"], config)
    if config.get("no_rope_layers", [1] * 99)[layer]:
        q, k = rotate(config, q, layer, context), rotate(config, k, layer, context)
    k, v = np.repeat(k, heads // kv_heads, axis=0), np.repeat(v, heads // kv_heads, axis=0)
    scores = q @ k.swapaxes(1, 2) * score_scale(config, dim)
    scores = np.where(visible(config, layer, len(x)), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return linear(w, p + "self_attn.o_proj", (weights @ v).swapaxes(0, 1).reshape(len(x), -1))


def score_scale(config: Config, dim: int) -> float:
    if config["model_type"] == "gemma3_text":
        return config["query_pre_attn_scalar"] ** -0.5
    return config.get("attention_multiplier", dim**-0.5)


def qkv(config: Config, w: Tensors, p: str, x: Array, q: int, kv: int) -> list[Array]:
    if config["model_type"] == "phi3":
        return np.split(linear(w, p + "self_attn.qkv_proj", x), [q, q + kv], axis=-1)
    return [linear(w, p + f"self_attn.{name}_proj", x) for name in "qkv"]


def visible(config: Config, layer: int, tokens: int) -> Array:
    """Which key (column) each query (row) sees: itself and what came before, within the window."""
    query, key = np.arange(tokens)[:, None], np.arange(tokens)[None]
    window = config.get("sliding_window")
    if config["model_type"] == "qwen2":
        windowed = config.get("use_sliding_window") and layer >= config["max_window_layers"]
        window = window if windowed else None
    if config["model_type"] == "gemma3_text" and config["layer_types"][layer] == "full_attention":
        window = None
    return (key <= query) & (query - key < (window or tokens + 1))


def rotate(config: Config, x: Array, layer: int, context: int | None) -> Array:
    """Rotary embedding of halves, x (heads, tokens, dim); of the first dimensions if it is partial."""
    turning = int(x.shape[-1] * config.get("partial_rotary_factor", 1.0))
    x, rest = np.split(x, [turning], axis=-1)
    frequencies, factor = rope(layer_rope(config, layer), turning, context)
    angles = np.arange(x.shape[1])[:, None] * frequencies
    cos, sin = np.cos(angles) * factor, np.sin(angles) * factor
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def layer_rope(config: Config, layer: int) -> Config:
    """The config with the rope that a layer has: in Gemma 3, those with a window have their own."""
    if config["model_type"] != "gemma3_text":
        return config
    kind = config["layer_types"][layer]
    if "rope_parameters" in config:
        return {**config, "rope_parameters": config["rope_parameters"][kind]}
    local = kind == "sliding_attention"
    return {**config, "rope_theta": config["rope_local_base_freq" if local else "rope_theta"]}


def rope(config: Config, dim: int, context: int | None) -> tuple[Array, float]:
    """Frequencies (dim / 2,) and the factor on cosines and sines."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = scaling.get("rope_theta", config["rope_theta"])
    inverse = np.array([theta ** (-2 * i / dim) for i in range(dim // 2)])
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "linear":
        return inverse / scaling["factor"], 1.0
    if kind == "llama3":
        return np.array([llama3(f, scaling) for f in inverse]), 1.0
    if kind == "yarn":
        return yarn(inverse, theta, dim, scaling)
    if kind == "longrope":
        original = config["original_max_position_embeddings"]
        maximum = config["max_position_embeddings"]
        which = "long_factor" if (context or maximum) > original else "short_factor"
        return inverse / np.array(scaling[which]), math.sqrt(
            1 + math.log(maximum / original) / math.log(original)
        )
    return inverse, 1.0


def llama3(frequency: float, scaling: dict[str, Any]) -> float:
    wavelength = 2 * math.pi / frequency
    original, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    if wavelength < original / scaling["high_freq_factor"]:
        return frequency
    if wavelength > original / scaling["low_freq_factor"]:
        return frequency / factor
    smooth = (original / wavelength - scaling["low_freq_factor"]) / (
        scaling["high_freq_factor"] - scaling["low_freq_factor"]
    )
    return (1 - smooth) * frequency / factor + smooth * frequency


def yarn(inverse: Array, theta: float, dim: int, scaling: dict[str, Any]) -> tuple[Array, float]:
    def correction(turns: float) -> float:
        return (
            dim
            * math.log(scaling["original_max_position_embeddings"] / (turns * 2 * math.pi))
            / (2 * math.log(theta))
        )

    low, high = max(math.floor(correction(32)), 0), min(math.ceil(correction(1)), dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)
    frequencies = inverse * (1 - ramp) + inverse / scaling["factor"] * ramp
    return frequencies, 0.1 * math.log(scaling["factor"]) + 1
