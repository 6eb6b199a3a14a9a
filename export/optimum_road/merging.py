"""Merging: a copy of a folder with LoRAs merged into its weights, for Optimum to trace.

There is no ModelSpec of these families: a matrix is found by its module's name, and which way it lies by the
shapes of A and B. (GPT-2's Conv1D stores it turned, columns first.)
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from safetensors.numpy import save_file

from edgert.errors import CheckpointError
from edgert.export.checkpoint import FloatArray, StoredTensor
from edgert.export.checkpoint.adapter import PREFIX, WEIGHTS, adapter_tensors
from edgert.export.checkpoint.adapter_texts import read_texts
from edgert.export.checkpoint.huggingface import folder_tensors
from edgert.export.checkpoint.lora_config import REMEDY, LoraConfig, read_lora_config
from edgert.export.checkpoint.sampling import drawn

from .student import Student

TEXTS = (".json", ".jinja", ".txt", ".model")  # endings of what lies beside weights
INDEX = ".index.json"  # which shard has which weights
SIDES = ("A", "B")


def with_adapters(student: Student, folders: Iterable[Path]) -> Student:
    """The student as merging makes it: texts that adapters bring are its own. Raises CheckpointError."""
    for folder in folders:
        texts = read_texts(folder, student, student.vocab_size)
        texts.say_used()
        named, origin = student.names_temperature, student.origin
        student = replace(
            student,
            tokenizer=texts.tokenizer,
            generation=drawn(texts.generation, texts.tokenizer, names_temperature=named),
            origin=replace(origin, adapters=(*origin.adapters, folder.resolve().name)),
        )
    return student


def write_merged(source: Path, adapters: Iterable[Path], target: Path) -> Path:
    """The folder `target`, which is new: `source` with adapters merged, one after the other, in fp32.

    All weights are in memory, which takes less than tracing them. Raises CheckpointError.
    """
    stored = folder_tensors(source)
    # Numbers alone are buffers of old checkpoints, which transformers computes anew.
    weights = {name: tensor.rows(0, tensor.shape[0]) for name, tensor in stored.items() if tensor.shape}
    for folder in adapters:
        _merge(weights, folder)
    target.mkdir()
    for path in source.iterdir():
        if path.is_file() and path.suffix in TEXTS and not path.name.endswith(INDEX):
            shutil.copy(path, target)
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    return target


def _merge(weights: dict[str, FloatArray], folder: Path) -> None:
    """Add scale · B·A to each matrix that an adapter changes."""
    config, tensors = read_lora_config(folder), adapter_tensors(folder)
    for module in _modules(folder, tensors):
        name = _weight_of(folder, module, weights)
        added = _added(folder, config, tensors, module)
        if _is_turned(config, weights[name].shape, added.shape):
            added = added.T
        if added.shape != weights[name].shape:
            raise CheckpointError(
                f"{folder / WEIGHTS}: '{module}' adds {list(added.shape)} to '{name}' "
                f"{list(weights[name].shape)}: is it an adapter for another model?"
            )
        weights[name] = weights[name] + added


def _modules(folder: Path, tensors: Iterable[str]) -> list[str]:
    """The modules that an adapter has tensors of; each has the number of its layer in its name."""
    modules = []
    for key in tensors:
        match = re.fullmatch(re.escape(PREFIX) + r"(.+\.\d+\..+)\.lora_[AB]\.weight", key)
        if match is None:
            reason = f"only matrices of layers are supported: {REMEDY}"
            raise CheckpointError(f"{folder / WEIGHTS}: tensor '{key}': {reason}")
        modules.append(match[1])
    return list(dict.fromkeys(modules))


def _weight_of(folder: Path, module: str, weights: Mapping[str, FloatArray]) -> str:
    """The tensor of a module: some files leave out the name of the model within, `transformer.`."""
    for name in (f"{module}.weight", f"{module.partition('.')[2]}.weight"):
        if name in weights:
            return name
    raise CheckpointError(
        f"{folder / WEIGHTS}: '{module}' has no place in the base model: is it an adapter for another one?"
    )


def _added(folder: Path, config: LoraConfig, tensors: Mapping[str, StoredTensor], module: str) -> FloatArray:
    """scale · B·A, (rows, columns)."""
    found, rank = {}, config.rank(module)
    for side, axis in zip(SIDES, (0, 1), strict=True):
        key = f"{PREFIX}{module}.lora_{side}.weight"
        if key not in tensors:
            raise CheckpointError(f"{folder / WEIGHTS}: tensor '{key}' is missing")
        shape = tensors[key].shape
        if len(shape) != len(SIDES) or shape[axis] != rank:
            raise CheckpointError(f"{folder / WEIGHTS}: tensor '{key}' is {list(shape)}, its rank is {rank}")
        found[side] = tensors[key].rows(0, shape[0])
    added: FloatArray = found["B"] @ (found["A"] * config.scale(module))
    return added


def _is_turned(config: LoraConfig, stored: tuple[int, ...], added: tuple[int, ...]) -> bool:
    """Of square ones the shape doesn't tell: PEFT notes that the base has Conv1D."""
    if stored == added == added[::-1]:
        return config.fan_in_fan_out
    return stored == added[::-1]
