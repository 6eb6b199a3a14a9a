"""A Llama or Qwen2 checkpoint as a GGUF file, for llama.cpp to quantize.

llama.cpp's own converter needs PyTorch, and refuses tokenizers that it doesn't know by their hash.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import Tokenizer

from edgert.export.checkpoint import Checkpoint, FloatArray
from edgert.export.checkpoint.gguf import name_in_file
from edgert.export.checkpoint.gguf_tokenizer import SPLITS, rebuild
from edgert.export.checkpoint.spec import ModelSpec

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # token types, GGUF specification


def write(checkpoint: Checkpoint, path: Path, text: str, dtype: type[np.generic] = np.float32) -> None:
    """Write the file; `text` tells its pre-tokenizer from the others. Matrices are stored as `dtype`.

    Stops if GGUF can't say it all.
    """
    _check(checkpoint.spec)
    writer = gguf.GGUFWriter(path, checkpoint.spec.family)
    _add_sizes(writer, checkpoint.spec)
    _add_tokenizer(writer, checkpoint, text)
    for name, tensor in checkpoint.tensors.items():
        rows = tensor.rows(0, tensor.shape[0])
        if checkpoint.spec.family == "llama":
            rows = _interleaved(name, rows, checkpoint.spec)
        writer.add_tensor(name_in_file(name), rows.astype(dtype) if rows.ndim == 2 else rows)
    if checkpoint.spec.rope.divisors:
        writer.add_tensor("rope_freqs.weight", np.array(checkpoint.spec.rope.divisors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _check(spec: ModelSpec) -> None:
    plain = all(spec.rope_layers) and not any(spec.windows) and spec.rope.attention_factor == 1
    if spec.family not in ("llama", "qwen2") or not plain or spec.rope.long_divisors:
        raise SystemExit(f"can't write this {spec.family} model as GGUF: convert it, and give the .gguf file")


def _add_sizes(writer: gguf.GGUFWriter, spec: ModelSpec) -> None:
    writer.add_vocab_size(spec.vocab_size)
    writer.add_block_count(spec.num_layers)
    writer.add_context_length(spec.max_context)
    writer.add_embedding_length(spec.hidden_size)
    writer.add_feed_forward_length(spec.intermediate_size)
    writer.add_head_count(spec.num_heads)
    writer.add_head_count_kv(spec.num_kv_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_rope_dimension_count(spec.rope.dim)
    writer.add_rope_freq_base(spec.rope.theta)
    writer.add_layer_norm_rms_eps(spec.norm_eps)


def _interleaved(name: str, rows: FloatArray, spec: ModelSpec) -> FloatArray:
    """q and k with the two halves of each head in turn: neighbours rotate in llama.cpp's Llama."""
    heads = {"q": spec.num_heads, "k": spec.num_kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return rows
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _add_tokenizer(writer: gguf.GGUFWriter, checkpoint: Checkpoint, text: str) -> None:
    source = json.loads(checkpoint.tokenizer.tokenizer)
    tokens, types = _tokens(source, checkpoint.spec.vocab_size)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in source["model"]["merges"]]
    tables = {"tokens": tokens, "token_type": types, "merges": merges}
    encoder = Tokenizer.from_str(checkpoint.tokenizer.tokenizer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre(tables, encoder, text))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    _add_special(writer, checkpoint, encoder)


def _tokens(source: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Text and type of every id; ids that the tokenizer doesn't know are unused."""
    tokens, types = [f"[PAD{number}]" for number in range(size)], [UNUSED] * size
    for token, number in source["model"]["vocab"].items():
        tokens[number], types[number] = token, NORMAL
    for added in source["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    return tokens, types


def _pre(tables: dict[str, Any], encoder: Tokenizer, text: str) -> str:
    """The name of the pre-tokenizer with which GGUF's tables encode the text as the checkpoint does."""
    wanted = encoder.encode(text, add_special_tokens=False).ids
    metadata = {f"tokenizer.ggml.{key}": value for key, value in tables.items()}
    for name in ("gpt-2", "smollm", *SPLITS):
        files = rebuild({**metadata, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": name})
        if Tokenizer.from_str(files.tokenizer).encode(text, add_special_tokens=False).ids == wanted:
            return name
    raise SystemExit("no pre-tokenizer of GGUF encodes the text as the checkpoint's tokenizer does")


def _add_special(writer: gguf.GGUFWriter, checkpoint: Checkpoint, encoder: Tokenizer) -> None:
    """Begin and end; a BOS may be added by the tokenizer's configuration or by its post-processor."""
    defaults = checkpoint.generation
    writer.add_eos_token_id(defaults.eos_token_ids[0])
    if defaults.bos_token_id is not None:
        writer.add_bos_token_id(defaults.bos_token_id)
    begins = encoder.encode("a").ids[:1] == [defaults.bos_token_id]
    writer.add_add_bos_token(defaults.add_bos or begins)
