"""Student: what a Hugging Face folder of any family says of itself, and what is no student at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from edgert.bundle import GenerationDefaults, Origin
from edgert.errors import CheckpointError, UsageError
from edgert.export.checkpoint import TokenizerFiles
from edgert.export.checkpoint.beside import read_beside
from edgert.export.checkpoint.json_file import read_json, well_formed
from edgert.export.checkpoint.sampling import drawn
from edgert.export.checkpoint.source import check_tokenizer

Config = Mapping[str, Any]

# Families call one size by many names; the first that is there counts.
HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
INTERMEDIATE = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "d_ff", "hidden_dim")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KV_HEADS = ("num_key_value_heads", "num_kv_heads")
CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
MATRIX_RANK = 2
USUAL_CONTEXT = 2048  # where positions have no limit of their own (ALiBi)
ALIBI = ("bloom",)  # others have it if their config says so

# What the last word of an architecture's name says; anything else that isn't a causal language model, too.
KINDS = {
    "ForSequenceClassification": "classifies texts",
    "ForTokenClassification": "classifies tokens",
    "ForQuestionAnswering": "marks answers in a text",
    "ForMaskedLM": "is an encoder that fills in masked words",
    "ForConditionalGeneration": "is an encoder with a decoder, or reads images or sound",
    "ForImageTextToText": "reads images",
    "ForVision2Seq": "reads images",
    "ForSpeechSeq2Seq": "reads sound",
    "Model": "gives embeddings, not a next token",
}
CAUSAL = ("ForCausalLM", "LMHeadModel")


@dataclass(frozen=True)
class Student:
    """Sizes as config.json names them, and what lies beside the weights."""

    folder: Path
    family: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_context: int
    tied_embeddings: bool
    tokenizer: TokenizerFiles
    generation: GenerationDefaults
    origin: Origin
    names_context: bool
    names_temperature: bool
    alibi: bool


def open_student(folder: Path) -> Student:
    """Read a folder's texts. Raises CheckpointError, for what is no decoder of text, too; UsageError for a
    file.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: --via optimum takes a Hugging Face folder")
    config = read_json(folder / "config.json")
    with well_formed(folder):
        student = _student(folder, config)
    check_tokenizer(student, student.vocab_size, folder)
    return student


def _student(folder: Path, config: Config) -> Student:
    refuse_other_kinds(config, folder)
    beside = read_beside(folder, config)
    generation = drawn(beside.generation, beside.tokenizer, names_temperature=beside.names_temperature)
    hidden, heads = _size(config, HIDDEN, folder), _size(config, HEADS, folder)
    return Student(
        folder=folder,
        family=str(config["model_type"]),
        hidden_size=hidden,
        intermediate_size=_named(config, INTERMEDIATE) or 4 * hidden,
        num_layers=_size(config, LAYERS, folder),
        num_heads=heads,
        num_kv_heads=_kv_heads(config) or heads,
        head_dim=_named(config, ("head_dim",)) or hidden // heads,
        vocab_size=_size(config, ("vocab_size",), folder),
        max_context=_named(config, CONTEXT) or USUAL_CONTEXT,
        tied_embeddings=config.get("tie_word_embeddings", True) is not False,
        tokenizer=beside.tokenizer,
        generation=generation,
        origin=beside.origin,
        names_context=_named(config, CONTEXT) is not None,
        names_temperature=beside.names_temperature,
        alibi=_has_alibi(config),
    )


def count_weights(folder: Path) -> int:
    """How many weights a folder's safetensors hold, by their headers; of other files by size, about."""
    if files := sorted(folder.glob("model*.safetensors")):
        return sum(map(_weights_in, files))
    config = read_json(folder / "config.json")
    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    size = sum(path.stat().st_size for path in folder.glob("pytorch_model*.bin"))
    return size // (4 if stored == "float32" else 2)


def _weights_in(path: Path) -> int:
    """Numbers in vectors and matrices: what has more dimensions are masks that old checkpoints saved."""
    try:
        with safe_open(path, framework="np") as file:
            shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return sum(math.prod(shape) for shape in shapes if len(shape) <= MATRIX_RANK)


def refuse_other_kinds(config: Config, folder: Path) -> None:
    """Raise CheckpointError, saying what it is, for everything but a decoder of text."""
    place = folder / "config.json"
    if "model_type" not in config:
        raise CheckpointError(f"{place}: model_type is missing")
    family, name = config["model_type"], next(iter(config.get("architectures") or ()), "")
    what = _kind(config, name)
    if what:
        label = f"{name} ({family})" if name else f"a {family}"
        raise CheckpointError(f"{place}: {label} {what}: out of scope, edgert runs decoders of text")
    if config.get("quantization_config"):
        raise CheckpointError(f"{place}: the checkpoint is already quantized: export the original weights")


def _kind(config: Config, name: str) -> str | None:
    """What a checkpoint is instead of a decoder of text; None if it is one."""
    if any(key in config for key in ("vision_config", "audio_config")):
        return "reads images or sound"
    if config.get("is_encoder_decoder"):
        return "is an encoder with a decoder"
    if any((_integer(config.get(key)) or 0) > 1 for key in EXPERTS):
        return "is a mixture of experts"
    if not name or name.endswith(CAUSAL):
        return None
    return next((said for end, said in KINDS.items() if name.endswith(end)), "is no causal language model")


def _kv_heads(config: Config) -> int | None:
    """One for all heads says `multi_query`; Falcon's later design counts them all the same."""
    if config.get("multi_query") is True and not config.get("new_decoder_architecture"):
        return 1
    return _named(config, KV_HEADS)


def _has_alibi(config: Config) -> bool:
    """Falcon says it at the top, MPT of its attention."""
    attention = config.get("attn_config")
    said = attention if isinstance(attention, dict) else config
    return config["model_type"] in ALIBI or said.get("alibi") is True


def _size(config: Config, names: tuple[str, ...], folder: Path) -> int:
    found = _named(config, names)
    if found is None:
        raise CheckpointError(f"{folder / 'config.json'}: none of {', '.join(names)} is a number above 0")
    return found


def _named(config: Config, names: tuple[str, ...]) -> int | None:
    numbers = (_integer(config.get(name)) for name in names)
    return next((number for number in numbers if number and number > 0), None)


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
