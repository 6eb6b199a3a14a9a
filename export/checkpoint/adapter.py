"""Adapter: a LoRA as PEFT saves it, and the pass that merges it into the checkpoint it was trained on.

A merged matrix is W + scale · B·A, computed in float32 for the rows that are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgert.errors import CheckpointError

from . import Checkpoint, FloatArray, RowSlice, StoredTensor
from .adapter_texts import read_texts
from .huggingface import matrix_modules, stored_tensors
from .lora_config import CONFIG, REMEDY, LoraConfig, read_lora_config
from .sampling import drawn

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's wrappers around the model
TABLES = ("model.embed_tokens", "lm_head")


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to a matrix: scale · B·A, of `b` (rows, rank) and `a` (rank, columns)."""

    b: StoredTensor
    a: StoredTensor
    scale: float

    def rows(self, start: int, stop: int) -> FloatArray:
        return self.b.rows(start, stop) @ (self.a.rows(0, self.a.shape[0]) * self.scale)


@dataclass(frozen=True)
class Adapter:
    """What it adds, by the names of the checkpoint's tensors, `layers.3.q.weight`, with their factors."""

    name: str
    added: Mapping[str, LowRank]


@dataclass(frozen=True)
class _Merged:
    """A stored matrix and what an adapter adds to it."""

    tensor: StoredTensor
    added: LowRank

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    def rows(self, start: int, stop: int) -> FloatArray:
        return self.tensor.rows(start, stop) + self.added.rows(start, stop)


def merged(checkpoint: Checkpoint, folders: Iterable[Path]) -> Checkpoint:
    """The checkpoint with adapters merged into it, one after the other; texts that they bring take the place
    of its own. Raises CheckpointError.
    """
    for folder in folders:
        checkpoint = with_added(checkpoint, open_adapter(folder, checkpoint))
        texts = read_texts(folder, checkpoint, checkpoint.spec.vocab_size)
        texts.say_used()
        named = checkpoint.names_temperature
        generation = drawn(texts.generation, texts.tokenizer, names_temperature=named)
        checkpoint = replace(checkpoint, tokenizer=texts.tokenizer, generation=generation)
    return checkpoint


def with_added(checkpoint: Checkpoint, adapter: Adapter) -> Checkpoint:
    """The checkpoint with an adapter in its matrices, and in its origin."""
    tensors = {
        name: _Merged(tensor, adapter.added[name]) if name in adapter.added else tensor
        for name, tensor in checkpoint.tensors.items()
    }
    origin = replace(checkpoint.origin, adapters=(*checkpoint.origin.adapters, adapter.name))
    return replace(checkpoint, tensors=tensors, origin=origin)


def open_adapter(folder: Path, checkpoint: Checkpoint) -> Adapter:
    """A folder as PEFT's `save_pretrained` writes it, checked against its base. Raises CheckpointError."""
    config = read_lora_config(folder)
    tensors = adapter_tensors(folder)
    modules = matrix_modules(checkpoint.spec)
    _check_targets(folder, config, (*modules, *TABLES))
    _check_names(folder, config, tensors, modules)
    added: dict[str, LowRank] = {}
    for module, names in modules.items():
        if config.targets(module):
            parts = [checkpoint.tensors[name] for name in names]
            whole = _low_rank(folder, config, tensors, module, parts)
            for name, part in zip(names, _split(whole, parts), strict=True):
                added[name] = replace(part, scale=part.scale * checkpoint.factors.get(name, 1.0))
    return Adapter(folder.resolve().name, added)


def adapter_tensors(folder: Path) -> dict[str, StoredTensor]:
    """A's and B's by PEFT's names; only the header is read. Raises CheckpointError."""
    path = folder / WEIGHTS
    if path.is_file():
        return stored_tensors(path)
    if (folder / "adapter_model.bin").exists():
        raise CheckpointError(f"{folder}: only pickled weights (.bin); save the adapter as safetensors first")
    raise CheckpointError(f"{path}: missing; save the adapter again with PEFT's save_pretrained")


def _check_targets(folder: Path, config: LoraConfig, modules: Iterable[str]) -> None:
    """Something of the layers is adapted, and nothing else is."""
    targeted = [module for module in modules if config.targets(module)]
    table = next((module for module in targeted if module in TABLES), None)
    if table is not None:
        raise CheckpointError(
            f"{folder / CONFIG}: it adapts '{table}', only matrices of layers are supported: {REMEDY}"
        )
    if not targeted:
        raise CheckpointError(
            f"{folder / CONFIG}: target_modules matches nothing in the base model: "
            "is it an adapter for another one?"
        )


def _check_names(
    folder: Path, config: LoraConfig, tensors: Iterable[str], modules: Mapping[str, object]
) -> None:
    """Every tensor is A or B of a matrix that the config targets."""
    for key in tensors:
        match = re.fullmatch(re.escape(PREFIX) + r"(.+)\.lora_[AB]\.weight", key)
        if match and match[1] in modules and config.targets(match[1]):
            continue
        if any(f".{table}." in f".{key}" for table in TABLES):
            reason = f"only matrices of layers are supported: {REMEDY}"
        elif match and match[1] in modules:
            reason = "target_modules does not name its module"
        else:
            reason = "has no place in the base model: is it an adapter for another one?"
        raise CheckpointError(f"{folder / WEIGHTS}: tensor '{key}': {reason}")


def _low_rank(
    folder: Path,
    config: LoraConfig,
    tensors: Mapping[str, StoredTensor],
    module: str,
    parts: list[StoredTensor],
) -> LowRank:
    """A and B of a module, whose matrix is `parts` from top to bottom, with the shapes it needs."""
    rank = config.rank(module)
    shapes = {"A": (rank, parts[0].shape[1]), "B": (sum(part.shape[0] for part in parts), rank)}
    found = {}
    for letter, shape in shapes.items():
        key = f"{PREFIX}{module}.lora_{letter}.weight"
        if key not in tensors:
            raise CheckpointError(f"{folder / WEIGHTS}: tensor '{key}' {list(shape)} is missing")
        found[letter] = tensors[key]
        if found[letter].shape != shape:
            raise CheckpointError(
                f"{folder / WEIGHTS}: tensor '{key}' is {list(found[letter].shape)}, the base model and rank "
                f"{rank} ask for {list(shape)}: is it an adapter for another model?"
            )
    return LowRank(found["B"], found["A"], config.scale(module))


def _split(whole: LowRank, parts: Iterable[StoredTensor]) -> Iterable[LowRank]:
    """What is added to each of several matrices that the adapter sees as one."""
    start = 0
    for part in parts:
        stop = start + part.shape[0]
        yield replace(whole, b=RowSlice(whole.b, start, stop))
        start = stop
