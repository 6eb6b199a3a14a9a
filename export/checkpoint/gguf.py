"""A GGUF file as a Checkpoint: metadata to a spec, tensors dequantized a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from edgert.bundle import GenerationDefaults, Origin
from edgert.errors import CheckpointError

from . import Checkpoint, FloatArray, RowSlice, StoredTensor, families, gguf_tokenizer, rope
from .multipliers import Multipliers, scaled
from .spec import ModelSpec

NAMES = {
    "token_embd": "embedding",
    "output_norm": "final_norm",
    "output": "head",
    "attn_norm": "attn_norm",
    "post_attention_norm": "attn_post_norm",
    "ffn_norm": "mlp_norm",
    "post_ffw_norm": "mlp_post_norm",
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_output": "o",
    "attn_q_norm": "q_norm",
    "attn_k_norm": "k_norm",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
}
# Architectures by the name that files have for them, and the `model_type` of their Hugging Face folders.
FAMILIES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "smollm3": "smollm3",
    "phi3": "phi3",
    "gemma3": "gemma3_text",
    "granite": "granite",
    "olmo2": "olmo2",
}
# Converters reorder q and k of these so that neighbours rotate; edgert rotates halves, as transformers does.
INTERLEAVED = ("llama", "smollm3", "granite")
LAYERS_OF_GEMMA3_27B = 62  # llama.cpp tells it by them, too: its queries have a scale of their own
ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")


@dataclass(frozen=True)
class GGUFTensor:
    """A tensor in a GGUF file, read by offset: nothing stays mapped. `row_bytes` is its encoded row."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    row_bytes: int
    encoding: gguf.GGMLQuantizationType

    def rows(self, start: int, stop: int) -> FloatArray:
        stop = min(stop, self.shape[0])
        raw = np.fromfile(
            self.path, np.uint8, (stop - start) * self.row_bytes, offset=self.offset + start * self.row_bytes
        )
        if self.encoding == gguf.GGMLQuantizationType.F32:
            return raw.view(np.float32).reshape(stop - start, *self.shape[1:])
        array: FloatArray = gguf.quants.dequantize(raw.reshape(stop - start, self.row_bytes), self.encoding)
        return array.reshape(stop - start, *self.shape[1:])


@dataclass(frozen=True)
class RotatedHalves:
    """A q or k tensor of interleaved pairs, its rows back in the order of two halves per head."""

    tensor: StoredTensor
    num_heads: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    def rows(self, start: int, stop: int) -> FloatArray:
        """Whole heads are read and reordered; rows outside the range are dropped."""
        head_dim = self.shape[0] // self.num_heads
        first, last = start // head_dim, -(-min(stop, self.shape[0]) // head_dim)
        rows = self.tensor.rows(first * head_dim, last * head_dim)
        pairs = rows.reshape(last - first, head_dim // 2, 2, *self.shape[1:])
        halves = pairs.swapaxes(1, 2).reshape(rows.shape)
        return halves[start - first * head_dim : stop - first * head_dim]


@dataclass(frozen=True)
class Metadata:
    """Typed access to a GGUF file's key-value pairs; `{}` in a key stands for the architecture."""

    values: Mapping[str, Any]
    architecture: str

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key.format(self.architecture), default)

    def require(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise ValueError(f"metadata '{key.format(self.architecture)}' is missing")
        return value


class _Reader(gguf.GGUFReader):
    """Reads 49,000 tokens in half the time: each slice of a memmap is a Python call or two."""

    def _get(self, *place: Any, **more: Any) -> Any:
        self.data = self.data.view(np.ndarray)  # type: ignore[assignment]
        return super()._get(*place, **more)


def open_file(path: Path) -> Checkpoint:
    """Open a GGUF file. Raises CheckpointError."""
    try:
        reader = _Reader(path)
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"{path}: truncated, or not a GGUF file ({error})") from error
    try:
        architecture = str(_contents(reader, "general.architecture"))
        if architecture not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise ValueError(f"architecture '{architecture}' is not supported (known: {known})")
        metadata = Metadata({key: field.contents() for key, field in reader.fields.items()}, architecture)
        families.refuse_variants({name: metadata.get(f"{{}}.{name}") for name in families.REFUSED})
        file_tensors = {t.name: _tensor(path, t) for t in reader.tensors}
        spec = _spec(metadata, file_tensors)
        factors = _multipliers(metadata, spec).factors(spec)
        return Checkpoint(
            spec=spec,
            tensors=scaled(_canonical(spec, file_tensors), factors),
            tokenizer=gguf_tokenizer.rebuild(metadata.values),
            generation=_generation(metadata),
            names_temperature=metadata.get("general.sampling.temp") is not None,
            name_in_file=name_in_file,
            factors=factors,
            origin=Origin(str(metadata.get("general.name", path.stem)), metadata.get("general.license")),
        )
    except (ValueError, KeyError, IndexError, NotImplementedError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _contents(reader: gguf.GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise ValueError(f"metadata '{key}' is missing")
    return field.contents()


def _tensor(path: Path, tensor: gguf.ReaderTensor) -> GGUFTensor:
    shape = tuple(int(dim) for dim in reversed(tensor.shape))
    _, block_bytes = gguf.GGML_QUANT_SIZES[tensor.tensor_type]
    gguf.quants.dequantize(np.zeros((1, block_bytes), np.uint8), tensor.tensor_type)  # raises if unknown
    return GGUFTensor(
        path, int(tensor.data_offset), shape, int(tensor.n_bytes) // shape[0], tensor.tensor_type
    )


def _spec(metadata: Metadata, file_tensors: Mapping[str, GGUFTensor]) -> ModelSpec:
    heads, layers = int(metadata.require("{}.attention.head_count")), int(metadata.require("{}.block_count"))
    hidden = int(metadata.require("{}.embedding_length"))
    head_dim = int(metadata.get("{}.attention.key_length") or hidden // heads)
    if "token_embd.weight" not in file_tensors:
        raise ValueError("tensor 'token_embd.weight' is missing")
    family = FAMILIES[metadata.architecture]
    traits = families.FAMILIES[family]
    no_rope_every = 4 if family == "smollm3" else layers + 1
    return ModelSpec(
        family=family,
        hidden_size=hidden,
        intermediate_size=int(metadata.require("{}.feed_forward_length")),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=int(metadata.get("{}.attention.head_count_kv") or heads),
        head_dim=head_dim,
        vocab_size=file_tensors["token_embd.weight"].shape[0],
        max_context=int(metadata.require("{}.context_length")),
        norm_eps=float(metadata.require("{}.attention.layer_norm_rms_epsilon")),
        rope=_rope(metadata, head_dim, file_tensors),
        rope_layers=tuple((layer + 1) % no_rope_every != 0 for layer in range(layers)),
        windows=_windows(metadata, layers),
        tied_embeddings="output.weight" not in file_tensors,
        qkv_bias="blk.0.attn_q.bias" in file_tensors,
        o_bias="blk.0.attn_output.bias" in file_tensors,
        mlp_bias="blk.0.ffn_down.bias" in file_tensors,
        qk_norm="blk.0.attn_q_norm.weight" in file_tensors,
        qk_norm_whole=traits.qk_norm_whole,
        pre_norms=traits.pre_norms,
        post_norms=traits.post_norms,
        activation=families.ACTIVATIONS[traits.activation],
        local_rope=_local_rope(metadata, traits.local_theta, head_dim),
    )


def _windows(metadata: Metadata, layers: int) -> tuple[int | None, ...]:
    """Of all layers, or of all but every sixth in Gemma 3, whose files don't say which."""
    window = int(metadata.get("{}.attention.sliding_window") or 0) or None
    full_every = 6 if metadata.architecture == "gemma3" else layers + 1
    return tuple(window if (layer + 1) % full_every else None for layer in range(layers))


def _local_rope(metadata: Metadata, theta: float | None, head_dim: int) -> rope.Rope | None:
    if theta is None:
        return None
    theta = float(metadata.get("{}.rope.freq_base_swa", theta))
    return rope.Rope(theta, int(metadata.get("{}.rope.dimension_count") or head_dim))


def _multipliers(metadata: Metadata, spec: ModelSpec) -> Multipliers:
    """Files of Gemma 3 leave them out; of Granite they keep what logits are divided by."""
    if metadata.architecture == "gemma3":
        of_27b = spec.num_layers == LAYERS_OF_GEMMA3_27B
        width = spec.hidden_size / spec.num_heads if of_27b else spec.head_dim
        return Multipliers(embedding=math.sqrt(spec.hidden_size), attention=width**-0.5)
    if metadata.architecture == "granite":
        return Multipliers(
            embedding=float(metadata.get("{}.embedding_scale", 1.0)),
            residual=float(metadata.get("{}.residual_scale", 1.0)),
            logits=1.0 / float(metadata.get("{}.logit_scale", 1.0)),
            attention=float(metadata.get("{}.attention.scale", 0.0)) or None,
        )
    return Multipliers()


def _rope(metadata: Metadata, head_dim: int, file_tensors: Mapping[str, GGUFTensor]) -> rope.Rope:
    """As llama.cpp has it: both attention factors multiply what the kind of scaling comes with."""
    scaled = _scaled_rope(metadata, head_dim, file_tensors)
    factor = scaled.attention_factor
    for key in ("attn_factor", "yarn_attn_factor"):
        factor *= float(metadata.get(f"{{}}.rope.scaling.{key}", 1.0))
    return replace(scaled, attention_factor=factor)


def _scaled_rope(metadata: Metadata, head_dim: int, file_tensors: Mapping[str, GGUFTensor]) -> rope.Rope:
    theta = float(metadata.get("{}.rope.freq_base", 10000.0))
    dim = int(metadata.get("{}.rope.dimension_count") or head_dim)
    context = int(metadata.require("{}.context_length"))
    original = int(metadata.get("{}.rope.scaling.original_context_length") or context)
    freqs, short, long = (
        tuple(file_tensors[name].rows(0, dim // 2).tolist()) if name in file_tensors else ()
        for name in ROPE_FACTORS
    )
    if freqs:
        return rope.Rope(theta, dim, freqs)
    if short:
        return rope.Rope(theta, dim, short, long, original)
    scaling = {
        "type": metadata.get("{}.rope.scaling.type") or "default",
        "factor": metadata.get("{}.rope.scaling.factor"),
        "original_max_position_embeddings": original,
        "beta_fast": metadata.get("{}.rope.scaling.yarn_beta_fast"),
        "beta_slow": metadata.get("{}.rope.scaling.yarn_beta_slow"),
    }
    if scaling["type"] == "none":
        scaling["type"] = "default"
    return rope.from_config(theta, dim, scaling, context)


def _canonical(spec: ModelSpec, file_tensors: Mapping[str, GGUFTensor]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for key, tensor in file_tensors.items():
        if key in ROPE_FACTORS:
            continue
        layer, short, kind = _split_name(key)
        for name, part in _parts(spec, short, tensor):
            tensors[f"{layer}{name}.{kind}"] = part
    return tensors


def name_in_file(name: str) -> str:
    """A tensor's name in the file: `layers.3.q.weight` → `blk.3.attn_q.weight`."""
    stem, _, kind = name.rpartition(".")
    short = stem.rpartition(".")[2]
    theirs = next(key for key, ours in NAMES.items() if ours == short)
    return f"{stem.replace('layers.', 'blk.').removesuffix(short)}{theirs}.{kind}"


def _split_name(key: str) -> tuple[str, str, str]:
    """`blk.3.attn_q.weight` → (`layers.3.`, `attn_q`, `weight`)."""
    stem, _, kind = key.rpartition(".")
    if stem.startswith("blk."):
        _, number, short = stem.split(".", 2)
        return f"layers.{number}.", short, kind
    return "", stem, kind


def _parts(spec: ModelSpec, short: str, tensor: StoredTensor) -> list[tuple[str, StoredTensor]]:
    """The tensor under edgert's names: split if it is fused, reordered if its pairs are interleaved."""
    if short == "attn_qkv":
        q, kv = spec.q_size, spec.kv_size
        return [
            ("q", RowSlice(tensor, 0, q)),
            ("k", RowSlice(tensor, q, q + kv)),
            ("v", RowSlice(tensor, q + kv, q + 2 * kv)),
        ]
    if short == "ffn_up" and tensor.shape[0] == 2 * spec.intermediate_size:
        size = spec.intermediate_size
        return [("gate", RowSlice(tensor, 0, size)), ("up", RowSlice(tensor, size, 2 * size))]
    if short not in NAMES:
        raise ValueError(f"tensor '{short}' has no place in a {spec.family} model")
    if short in ("attn_q", "attn_k") and spec.family in INTERLEAVED:
        heads = spec.num_heads if short == "attn_q" else spec.num_kv_heads
        return [(NAMES[short], RotatedHalves(tensor, heads))]
    return [(NAMES[short], tensor)]


def _generation(metadata: Metadata) -> GenerationDefaults:
    """Sampling settings, and every end the metadata names: end of sequence, of turn and of message."""
    tokens = metadata.require("tokenizer.ggml.tokens")
    bos, eos = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos"))
    ends = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    ends += gguf_tokenizer.turn_ends(metadata.values)
    return GenerationDefaults(
        eos_token_ids=tuple(dict.fromkeys(int(token) for token in ends if token is not None)),
        bos_token_id=int(bos) if bos is not None else None,
        bos_token=tokens[int(bos)] if bos is not None else "",
        eos_token=tokens[int(eos)] if eos is not None else "",
        add_bos=gguf_tokenizer.adds_bos(metadata.values),
        temperature=max(0.0, _sampling(metadata, "temp", 0.0)),  # llama.cpp: greedy at 0 and below
        top_k=max(0, int(_sampling(metadata, "top_k", 0))),  # off at 0 and below
        top_p=_sampling(metadata, "top_p", 1.0),
        min_p=_sampling(metadata, "min_p", 0.0),
        repetition_penalty=_sampling(metadata, "penalty_repeat", 1.0),
    )


def _sampling(metadata: Metadata, name: str, default: float) -> float:
    """A recommended setting; stored in float32, where 0.6 is 0.60000002."""
    return round(float(metadata.get(f"general.sampling.{name}", default)), 6)
