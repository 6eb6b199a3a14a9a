"""A Llama checkpoint as a Hugging Face folder in fp32, for tools that read no GGUF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from edgert.export.checkpoint import Checkpoint
from edgert.export.checkpoint.huggingface import name_in_file


def write(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write the folder, every weight dequantized, and return it. Stops if it is no plain Llama."""
    spec = checkpoint.spec
    if spec.family != "llama" or spec.rope.divisors:
        raise SystemExit(f"can't write this {spec.family} model as a folder: give the one it was made from")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_config(checkpoint)), "utf-8")
    (folder / "tokenizer.json").write_text(checkpoint.tokenizer.tokenizer, "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(checkpoint.tokenizer.config)), "utf-8")
    tensors = {
        name_in_file(spec, name): tensor.rows(0, tensor.shape[0])
        for name, tensor in checkpoint.tensors.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    spec, generation = checkpoint.spec, checkpoint.generation
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float32",
        "hidden_act": "silu",
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "vocab_size": spec.vocab_size,
        "max_position_embeddings": spec.max_context,
        "rms_norm_eps": spec.norm_eps,
        "rope_theta": spec.rope.theta,
        "attention_bias": spec.qkv_bias,
        "mlp_bias": spec.mlp_bias,
        "tie_word_embeddings": spec.tied_embeddings,
        "bos_token_id": generation.bos_token_id,
        "eos_token_id": list(generation.eos_token_ids),
    }
