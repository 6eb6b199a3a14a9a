"""A Llama in PyTorch: pure functions of its weights, which are named as in edgert.export."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from edgert.bundle import GenerationDefaults
from edgert.errors import CheckpointError
from edgert.export.checkpoint import Checkpoint
from edgert.export.checkpoint.huggingface import name_in_file
from edgert.export.checkpoint.rope import Rope
from edgert.export.checkpoint.spec import ModelSpec
from edgert.export.destination import destination

CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}


@dataclass(frozen=True)
class Llama:
    """Shapes, and the weights by name. Hidden states are (batch, tokens, hidden)."""

    spec: ModelSpec
    weights: dict[str, Tensor]

    def logits(self, ids: Tensor) -> Tensor:
        """Token ids (batch, tokens) to logits (batch, tokens, vocab)."""
        hidden = self.embed(ids)
        for number in range(self.spec.num_layers):
            hidden = self.layer(number, hidden)
        return self.head(hidden)

    def embed(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weights["embedding.weight"])

    def head(self, hidden: Tensor) -> Tensor:
        table = self.weights.get("head.weight", self.weights["embedding.weight"])
        return F.linear(self._normed("final_norm", hidden), table)

    def layer(self, number: int, hidden: Tensor) -> Tensor:
        """Attention and MLP, each normed before and added to the stream."""
        at = f"layers.{number}."
        hidden = hidden + self._attention(at, self._normed(f"{at}attn_norm", hidden))
        normed = self._normed(f"{at}mlp_norm", hidden)
        inner = F.silu(self._times(f"{at}gate", normed)) * self._times(f"{at}up", normed)
        return hidden + self._times(f"{at}down", inner)

    def _attention(self, at: str, x: Tensor) -> Tensor:
        q, k, v = (
            self._times(at + name, x).reshape(*x.shape[:2], -1, self.spec.head_dim).transpose(1, 2)
            for name in ("q", "k", "v")
        )
        cos, sin = _turns(self.spec.rope, x.shape[1])
        q, k = _turned(q, cos, sin), _turned(k, cos, sin)
        k, v = (part.repeat_interleave(self.spec.num_heads // part.shape[1], dim=1) for part in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self._times(f"{at}o", mixed.transpose(1, 2).flatten(2))

    def _times(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def _normed(self, name: str, x: Tensor) -> Tensor:
        return F.rms_norm(x, (self.spec.hidden_size,), self.weights[f"{name}.weight"], self.spec.norm_eps)


@lru_cache(maxsize=4)
def _turns(rope: Rope, tokens: int) -> tuple[Tensor, Tensor]:
    cos, sin = rope.tables(tokens)
    return torch.from_numpy(cos), torch.from_numpy(sin)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def read(checkpoint: Checkpoint) -> Llama:
    """All weights in float32. Raises CheckpointError for a model that isn't a plain Llama or Qwen2."""
    spec = checkpoint.spec
    plain = spec.rope == Rope(spec.rope.theta, spec.head_dim) and all(spec.rope_layers)
    if spec.family not in CLASSES or not plain or any(spec.windows):
        raise CheckpointError(f"{spec.family} with this rope, or with windows, needs changes in llama.py")
    tensors = checkpoint.tensors.items()
    return Llama(spec, {name: torch.from_numpy(tensor.rows(0, tensor.shape[0])) for name, tensor in tensors})


def keep_layers(teacher: Llama, kept: Sequence[int]) -> Llama:
    """The same model with some of its layers. They are copies; embedding, head and last norm are shared."""
    spec, some = teacher.spec, len(kept)
    weights = {name: weight for name, weight in teacher.weights.items() if not name.startswith("layers.")}
    for number, layer in enumerate(kept):
        for name, weight in teacher.weights.items():
            if name.startswith(f"layers.{layer}."):
                weights[name.replace(str(layer), str(number), 1)] = weight.clone()
    rope_layers, windows = spec.rope_layers[:some], spec.windows[:some]
    return Llama(replace(spec, num_layers=some, rope_layers=rope_layers, windows=windows), weights)


def write(student: Llama, checkpoint: Checkpoint, folder: Path) -> None:
    """A Hugging Face folder with the checkpoint's tokenizer. Raises UsageError if it can't be written."""
    tokenizer, spec = checkpoint.tokenizer, student.spec
    tables: dict[str, Mapping[str, Any]] = {
        "config.json": _config(spec, checkpoint.generation),
        "generation_config.json": _generation_config(checkpoint.generation),
        "tokenizer_config.json": tokenizer.config,
    }
    stored = {name_in_file(spec, name): weight.detach() for name, weight in student.weights.items()}
    with destination(folder).written_aside(force=False) as aside:
        save_file(stored, aside / "model.safetensors", {"format": "pt"})
        (aside / "tokenizer.json").write_text(tokenizer.tokenizer, "utf-8")
        if tokenizer.chat_template is not None:
            (aside / "chat_template.jinja").write_text(tokenizer.chat_template, "utf-8")
        for name, table in tables.items():
            (aside / name).write_text(json.dumps(table, indent=1), "utf-8")


def _config(spec: ModelSpec, generation: GenerationDefaults) -> dict[str, Any]:
    return {
        "architectures": [CLASSES[spec.family]],
        "model_type": spec.family,
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "max_position_embeddings": spec.max_context,
        "rms_norm_eps": spec.norm_eps,
        "rope_theta": spec.rope.theta,
        "hidden_act": "silu",
        "attention_bias": spec.qkv_bias,
        "mlp_bias": spec.mlp_bias,
        "tie_word_embeddings": spec.tied_embeddings,
        "bos_token_id": generation.bos_token_id,
        "eos_token_id": list(generation.eos_token_ids),
        "torch_dtype": "float32",
    }


def _generation_config(generation: GenerationDefaults) -> dict[str, Any]:
    if not generation.temperature:
        return {"do_sample": False, "eos_token_id": list(generation.eos_token_ids)}
    return {
        "do_sample": True,
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "top_k": generation.top_k,
        "eos_token_id": list(generation.eos_token_ids),
    }
