"""A Hugging Face folder as a Checkpoint: config.json, safetensors shards, tokenizer and template files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ml_dtypes  # noqa: F401  (with it NumPy knows bfloat16)
import numpy as np
from safetensors import SafetensorError, safe_open

from edgert.errors import CheckpointError

from . import Checkpoint, FloatArray, RowSlice, StoredTensor, row_ranges
from .beside import read_beside
from .families import FAMILIES, multipliers_from_config, spec_from_config
from .json_file import read_json
from .language import WITH_VISION, language_config, without_vision
from .multipliers import OnePlus, scaled
from .spec import ModelSpec

NAMES = {
    "embedding": "model.embed_tokens",
    "final_norm": "model.norm",
    "head": "lm_head",
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "qkv": "self_attn.qkv_proj",
    "gate_up": "mlp.gate_up_proj",
}
MATRICES = ("q", "k", "v", "o", "gate", "up", "down")  # of a layer
FUSED = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}
# With norms behind attention and MLP, the name that is elsewhere of the norm before the MLP means another.
POST_NORMS = {
    "attn_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
DTYPES = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class SafetensorsTensor:
    """A tensor in a safetensors file, opened anew for each read so that no pages stay mapped."""

    path: Path
    key: str
    shape: tuple[int, ...]

    def rows(self, start: int, stop: int) -> FloatArray:
        with safe_open(self.path, framework="np") as file:
            array: FloatArray = file.get_slice(self.key)[start:stop].astype(np.float32)
            return array


def open_folder(folder: Path) -> Checkpoint:
    """Open a folder as `save_pretrained` writes it. Raises CheckpointError."""
    config = read_json(folder / "config.json")
    try:
        language = language_config(config)
        spec = spec_from_config(language)
    except KeyError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    file_tensors = folder_tensors(folder)
    if config["model_type"] in WITH_VISION:
        file_tensors = without_vision(file_tensors, folder)
    beside = read_beside(folder, config)
    factors = multipliers_from_config(language).factors(spec)
    return Checkpoint(
        spec=spec,
        tensors=scaled(_canonical(spec, file_tensors, folder), factors),
        tokenizer=beside.tokenizer,
        generation=beside.generation,
        names_temperature=beside.names_temperature,
        name_in_file=partial(name_in_file, spec),
        factors=factors,
        origin=beside.origin,
    )


def _names(spec: ModelSpec) -> Mapping[str, str]:
    return {**NAMES, **POST_NORMS} if spec.post_norms else NAMES


def name_in_file(spec: ModelSpec, name: str) -> str:
    """A tensor's name in the checkpoint: `layers.3.q.weight` → `model.layers.3.self_attn.q_proj.weight`."""
    names = _names(spec)
    stem, _, kind = name.rpartition(".")
    short = stem.rpartition(".")[2]
    layer = f"model.{stem.removesuffix(short)}" if stem != short else ""
    return f"{layer}{names[short]}.{kind}"


def matrix_modules(spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """Matrices of all layers by the names of transformers' modules, and the tensors that make up each.

    `model.layers.3.self_attn.q_proj` is `layers.3.q.weight`; a fused one is several, from top to bottom.
    """
    kinds = ("qkv", "o", "gate_up", "down") if FAMILIES[spec.family].fused else MATRICES
    modules = {}
    for layer in range(spec.num_layers):
        for kind in kinds:
            parts = FUSED.get(kind, (kind,))
            module = name_in_file(spec, f"layers.{layer}.{kind}.weight").removesuffix(".weight")
            modules[module] = tuple(f"layers.{layer}.{part}.weight" for part in parts)
    return modules


def folder_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of all shards by their own names; only headers are read. Raises CheckpointError."""
    tensors: dict[str, StoredTensor] = {}
    for path in _shards(folder):
        tensors |= stored_tensors(path)
    return tensors


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file; only its header is read. Raises CheckpointError."""
    tensors: dict[str, StoredTensor] = {}
    try:
        with safe_open(path, framework="np") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                view = file.get_slice(key)
                if _is_mask(view.get_dtype(), view.get_shape()):
                    continue
                if view.get_dtype() not in DTYPES:
                    raise CheckpointError(
                        f"{path}: tensor '{key}' is {view.get_dtype()}; supported: {', '.join(DTYPES)}"
                    )
                tensors[key] = SafetensorsTensor(path, key, tuple(view.get_shape()))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return tensors


def _is_mask(dtype: str, shape: Sequence[int]) -> bool:
    """Buffers of old checkpoints (GPT-NeoX), which say what a causal model sees anyway."""
    return dtype in ("BOOL", "U8") and tuple(shape[:2]) == (1, 1)


def _shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
        missing = [name for name in names if not (folder / name).exists()]
        if missing or not names:
            raise CheckpointError(
                f"{index}: shard '{missing[0] if missing else '?'}' is missing from {folder}"
            )
        return [folder / name for name in names]
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    if list(folder.glob("pytorch_model*.bin")):
        raise CheckpointError(f"{folder}: only pickled weights (.bin); save the model as safetensors first")
    raise CheckpointError(f"{folder}: no model.safetensors and no model.safetensors.index.json")


def _canonical(
    spec: ModelSpec, file_tensors: dict[str, StoredTensor], folder: Path
) -> dict[str, StoredTensor]:
    """Rename, split what is stored fused, drop what transformers recomputes; norms as they multiply."""
    back = {theirs: ours for ours, theirs in _names(spec).items()}
    tensors: dict[str, StoredTensor] = {}
    for key, tensor in file_tensors.items():
        if key.endswith("rotary_emb.inv_freq"):  # a buffer that old checkpoints saved
            continue
        match = re.fullmatch(r"(?:model\.layers\.(\d+)\.)?(.+)\.(weight|bias)", key)
        ours = back.get(match[2]) if match else None
        if match is None or ours is None:
            raise CheckpointError(f"{folder}: tensor '{key}' has no place in a {spec.family} model")
        layer = f"layers.{match[1]}." if match[1] else ""
        for name, part in _unfuse(spec, ours, tensor):
            tensors[f"{layer}{name}.{match[3]}"] = part
    _check_tied_head(spec, tensors, folder)
    if FAMILIES[spec.family].one_plus_norms:
        return {name: OnePlus(tensor) if "norm" in name else tensor for name, tensor in tensors.items()}
    return tensors


def _unfuse(spec: ModelSpec, name: str, tensor: StoredTensor) -> list[tuple[str, StoredTensor]]:
    if not FAMILIES[spec.family].fused or name not in ("qkv", "gate_up"):
        return [(name, tensor)]
    if name == "qkv":
        sizes = {"q": spec.q_size, "k": spec.kv_size, "v": spec.kv_size}
    else:
        sizes = {"gate": spec.intermediate_size, "up": spec.intermediate_size}
    if tensor.shape[0] != sum(sizes.values()):  # let the shape check name it
        return [(name, tensor)]
    return [(part, RowSlice(tensor, start, stop)) for part, start, stop in _ranges(sizes)]


def _ranges(sizes: Mapping[str, int]) -> list[tuple[str, int, int]]:
    ranges, start = [], 0
    for name, size in sizes.items():
        ranges.append((name, start, start + size))
        start += size
    return ranges


def _check_tied_head(spec: ModelSpec, tensors: dict[str, StoredTensor], folder: Path) -> None:
    """A tied model may store its head a second time, but not a different one."""
    if not spec.tied_embeddings or "head.weight" not in tensors:
        return
    if not _same(tensors.pop("head.weight"), tensors.get("embedding.weight")):
        raise CheckpointError(
            f"{folder}: config.json ties the embeddings, but lm_head.weight differs from "
            "model.embed_tokens.weight: set tie_word_embeddings to false or drop lm_head.weight"
        )


def _same(a: StoredTensor, b: StoredTensor | None) -> bool:
    """Bit for bit, a few rows at a time."""
    if b is None or a.shape != b.shape:
        return False
    ranges = row_ranges(a.shape[0], 4096)
    return all(np.array_equal(a.rows(start, stop), b.rows(start, stop)) for start, stop in ranges)
