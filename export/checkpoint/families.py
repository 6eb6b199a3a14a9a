"""The supported architectures: config.json of each `model_type` to a ModelSpec, dialects and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import rope
from .spec import ModelSpec

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """What a `model_type` implies when its config is silent (the defaults of its transformers class)."""

    qkv_bias: bool | None = None  # None: the config's `attention_bias` decides for q, k, v and o
    qk_norm: bool = False
    fused: bool = False  # the checkpoint stores q, k, v and gate, up as one matrix each
    tied: bool = False
    head_dim: int | None = None
    theta: float = 10000.0
    window: int | None = None


FAMILIES: Mapping[str, Family] = {
    "llama": Family(),
    "mistral": Family(qkv_bias=False, window=4096),
    "qwen2": Family(qkv_bias=True, window=4096),
    "qwen3": Family(qk_norm=True, head_dim=128, window=4096),
    "smollm3": Family(tied=True, theta=2000000.0),
    "phi3": Family(qkv_bias=False, fused=True),
}


def spec_from_config(config: Config) -> ModelSpec:
    """ModelSpec of a Hugging Face config.json. Raises ValueError naming the field."""
    family = str(config.get("model_type", "missing"))
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ValueError(f"model_type '{family}' is not supported (known: {known})")
    _refuse_variants(config)
    traits = FAMILIES[family]
    heads = int(config["num_attention_heads"])
    layers = int(config["num_hidden_layers"])
    head_dim = int(config.get("head_dim") or traits.head_dim or config["hidden_size"] // heads)
    bias = bool(config.get("attention_bias", False))
    return ModelSpec(
        family=family,
        hidden_size=int(config["hidden_size"]),
        intermediate_size=int(config["intermediate_size"]),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=head_dim,
        vocab_size=int(config["vocab_size"]),
        max_context=int(config["max_position_embeddings"]),
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope=_rope(config, traits, head_dim),
        rope_layers=_rope_layers(family, config, layers),
        windows=_windows(family, config, traits, layers),
        tied_embeddings=bool(config.get("tie_word_embeddings", traits.tied)),
        qkv_bias=bias if traits.qkv_bias is None else traits.qkv_bias,
        o_bias=bias if traits.qkv_bias is None else False,
        mlp_bias=bool(config.get("mlp_bias", False)),
        qk_norm=traits.qk_norm,
    )


def _refuse_variants(config: Config) -> None:
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ValueError(f"hidden_act '{activation}' is not supported, only 'silu'")
    quantization = config.get("quantization_config")
    if quantization:
        method = (
            quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else quantization
        )
        raise ValueError(f"the checkpoint is already quantized ({method}): export the original weights")


def _rope(config: Config, traits: Family, head_dim: int) -> rope.Rope:
    """transformers 4 writes rope_theta and rope_scaling, 5 writes both into rope_parameters."""
    parameters = config.get("rope_parameters") or {}
    scaling = dict(parameters or config.get("rope_scaling") or {})
    theta = float(parameters.get("rope_theta") or config.get("rope_theta") or traits.theta)
    partial = float(parameters.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0)
    original = config.get("original_max_position_embeddings")
    if original and "original_max_position_embeddings" not in scaling:
        scaling["original_max_position_embeddings"] = original
    return rope.from_config(theta, int(head_dim * partial), scaling, int(config["max_position_embeddings"]))


def _rope_layers(family: str, config: Config, layers: int) -> tuple[bool, ...]:
    """SmolLM3 leaves every fourth layer without rotation (`no_rope_layers`: 1 means it rotates)."""
    if family != "smollm3":
        return (True,) * layers
    flags = config.get("no_rope_layers")
    if flags:
        if len(flags) != layers:
            raise ValueError(f"no_rope_layers has {len(flags)} entries, the model {layers} layers")
        return tuple(bool(flag) for flag in flags)
    interval = int(config.get("no_rope_layer_interval", 4))
    return tuple((layer + 1) % interval != 0 for layer in range(layers))


def _windows(family: str, config: Config, traits: Family, layers: int) -> tuple[int | None, ...]:
    """Sliding windows: Llama has none, Qwen and SmolLM3 need a switch, Mistral and Phi-3 only the size."""
    size = config.get("sliding_window", traits.window)
    switched = family in ("qwen2", "qwen3", "smollm3")
    if family == "llama" or not size or (switched and not config.get("use_sliding_window", False)):
        return (None,) * layers
    kinds = config.get("layer_types")
    if kinds:
        if len(kinds) != layers:
            raise ValueError(f"layer_types has {len(kinds)} entries, the model {layers} layers")
        return tuple(int(size) if kind == "sliding_attention" else None for kind in kinds)
    if family == "smollm3":
        rotating = _rope_layers(family, config, layers)
        return tuple(None if rotates else int(size) for rotates in rotating)
    first = int(config.get("max_window_layers", 28)) if family in ("qwen2", "qwen3") else 0
    return tuple(int(size) if layer >= first else None for layer in range(layers))
