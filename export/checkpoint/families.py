"""The supported architectures: config.json of each `model_type` to a ModelSpec and Multipliers, with its
dialects and defaults.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import rope
from .multipliers import Multipliers
from .spec import Activation, ModelSpec

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """What a `model_type` implies when its config is silent (the defaults of its transformers class)."""

    qkv_bias: bool | None = None  # None: the config's `attention_bias` decides for q, k, v and o
    qk_norm: bool = False
    qk_norm_whole: bool = False
    pre_norms: bool = True
    post_norms: bool = False
    one_plus_norms: bool = False  # the checkpoint stores norms as their distance from one
    activation: str = "silu"
    fused: bool = False  # the checkpoint stores q, k, v and gate, up as one matrix each
    tied: bool = False
    head_dim: int | None = None
    theta: float = 10000.0
    local_theta: float | None = None  # of layers with a window, where they rotate in their own way
    window: int | None = None


GEMMA3 = Family(
    qk_norm=True,
    post_norms=True,
    one_plus_norms=True,
    activation="gelu_pytorch_tanh",
    tied=True,
    head_dim=256,
    theta=1000000.0,
    local_theta=10000.0,
    window=4096,
)
FAMILIES: Mapping[str, Family] = {
    "llama": Family(),
    "mistral": Family(qkv_bias=False, window=4096),
    "qwen2": Family(qkv_bias=True, window=4096),
    "qwen3": Family(qk_norm=True, head_dim=128, window=4096),
    "smollm3": Family(tied=True, theta=2000000.0),
    "phi3": Family(qkv_bias=False, fused=True),
    "gemma3_text": GEMMA3,
    "granite": Family(),
    "olmo2": Family(qk_norm=True, qk_norm_whole=True, pre_norms=False, post_norms=True),
}
WINDOWLESS = ("llama", "granite", "olmo2")
ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
}
# Switches that change what a model computes and that no graph here has.
REFUSED = ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention")


def spec_from_config(config: Config) -> ModelSpec:
    """ModelSpec of a Hugging Face config.json. Raises ValueError naming the field."""
    family = str(config.get("model_type", "missing"))
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ValueError(f"model_type '{family}' is not supported (known: {known})")
    traits = FAMILIES[family]
    refuse_variants(config)
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
        rope=_rope(config, traits.theta, head_dim),
        rope_layers=_rope_layers(family, config, layers),
        windows=_windows(family, config, traits, layers),
        tied_embeddings=bool(config.get("tie_word_embeddings", traits.tied)),
        qkv_bias=bias if traits.qkv_bias is None else traits.qkv_bias,
        o_bias=bias if traits.qkv_bias is None else False,
        mlp_bias=bool(config.get("mlp_bias", False)),
        qk_norm=traits.qk_norm,
        qk_norm_whole=traits.qk_norm_whole,
        pre_norms=traits.pre_norms,
        post_norms=traits.post_norms,
        activation=_activation(config, traits),
        local_rope=_local_rope(config, traits, head_dim),
    )


def multipliers_from_config(config: Config) -> Multipliers:
    """The factors of a config that `spec_from_config` accepts."""
    if config["model_type"] == "gemma3_text":
        return Multipliers(
            embedding=math.sqrt(config["hidden_size"]),
            attention=float(config.get("query_pre_attn_scalar", 256)) ** -0.5,
        )
    if config["model_type"] == "granite":
        return Multipliers(
            embedding=float(config.get("embedding_multiplier", 1.0)),
            residual=float(config.get("residual_multiplier", 1.0)),
            logits=1.0 / float(config.get("logits_scaling", 1.0)),
            attention=float(config.get("attention_multiplier", 1.0)),
        )
    return Multipliers()


def _activation(config: Config, traits: Family) -> Activation:
    field = "hidden_activation" if "hidden_activation" in config else "hidden_act"
    name = config.get(field) or traits.activation
    if name not in ACTIVATIONS:
        raise ValueError(f"{field} '{name}' is not supported (known: {', '.join(ACTIVATIONS)})")
    return ACTIVATIONS[name]


def refuse_variants(config: Config) -> None:
    """Raises ValueError naming what no graph here computes."""
    for name in REFUSED:
        if config.get(name):
            raise ValueError(f"{name} is not supported: edgert's graphs have no such step")
    quantization = config.get("quantization_config")
    if quantization:
        method = (
            quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else quantization
        )
        raise ValueError(f"the checkpoint is already quantized ({method}): export the original weights")


def _rope(config: Config, default_theta: float, head_dim: int) -> rope.Rope:
    """transformers 4 writes rope_theta and rope_scaling, 5 writes both into rope_parameters, for each kind
    of layer if there are two.
    """
    parameters: Config = config.get("rope_parameters") or {}
    parameters = parameters.get("full_attention", parameters)
    scaling = dict(parameters or config.get("rope_scaling") or {})
    theta = float(parameters.get("rope_theta") or config.get("rope_theta") or default_theta)
    partial = float(parameters.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0)
    original = config.get("original_max_position_embeddings")
    if original and "original_max_position_embeddings" not in scaling:
        scaling["original_max_position_embeddings"] = original
    return rope.from_config(theta, int(head_dim * partial), scaling, int(config["max_position_embeddings"]))


def _local_rope(config: Config, traits: Family, head_dim: int) -> rope.Rope | None:
    if traits.local_theta is None:
        return None
    theta = float(config.get("rope_local_base_freq") or traits.local_theta)
    parameters = (config.get("rope_parameters") or {}).get("sliding_attention", {})
    own = {"rope_parameters": parameters, "max_position_embeddings": config["max_position_embeddings"]}
    return _rope(own, theta, head_dim)


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
    """Sliding windows: Llama has none, Qwen and SmolLM3 need a switch, the others only the size."""
    size = config.get("sliding_window", traits.window)
    switched = family in ("qwen2", "qwen3", "smollm3")
    if family in WINDOWLESS or not size or (switched and not config.get("use_sliding_window", False)):
        return (None,) * layers
    kinds = config.get("layer_types")
    if kinds:
        if len(kinds) != layers:
            raise ValueError(f"layer_types has {len(kinds)} entries, the model {layers} layers")
        return tuple(int(size) if kind == "sliding_attention" else None for kind in kinds)
    if family == "smollm3":
        rotating = _rope_layers(family, config, layers)
        return tuple(None if rotates else int(size) for rotates in rotating)
    if family == "gemma3_text":
        pattern = int(config.get("sliding_window_pattern") or 6)
        return tuple(int(size) if (layer + 1) % pattern else None for layer in range(layers))
    first = int(config.get("max_window_layers", 28)) if family in ("qwen2", "qwen3") else 0
    return tuple(int(size) if layer >= first else None for layer in range(layers))
