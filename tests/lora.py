"""Random LoRAs of tiny checkpoints as PEFT would save them, and what merging them gives, in NumPy."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

PREFIX = "base_model.model."
DEFAULTS: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "r": 4,
    "lora_alpha": 8,
    "use_rslora": False,
    "fan_in_fan_out": False,
    "target_modules": ["q_proj", "v_proj"],
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "layers_to_transform": None,
    "init_lora_weights": True,
}


@dataclass(frozen=True)
class Lora:
    """Ranks and scales of each module that it adapts, as the test knows them; `config`: unlike DEFAULTS."""

    ranks: dict[str, int]
    scales: dict[str, float]
    config: dict[str, Any] = field(default_factory=dict)
    seed: int = 1
    dtype: type = np.float32


def uniform(modules: list[str], scale: float, rank: int = 4, **config: Any) -> Lora:
    """One rank and one scale for all modules."""
    return Lora(dict.fromkeys(modules, rank), dict.fromkeys(modules, scale), config)


def tensors(lora: Lora, base: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A and B of every module, by PEFT's names."""
    rng = np.random.default_rng(lora.seed)
    found = {}
    for module, rank in lora.ranks.items():
        rows, columns = base[f"{module}.weight"].shape
        for letter, shape in (("A", (rank, columns)), ("B", (rows, rank))):
            values = rng.standard_normal(shape) * 0.1
            found[f"{PREFIX}{module}.lora_{letter}.weight"] = values.astype(lora.dtype)
    return found


def write(folder: Path, lora: Lora, base: dict[str, np.ndarray]) -> Path:
    """The adapter's folder."""
    folder.mkdir(parents=True)
    save_file(tensors(lora, base), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**DEFAULTS, **lora.config}), "utf-8")
    return folder


def merge(base: dict[str, np.ndarray], *loras: Lora) -> dict[str, np.ndarray]:
    """The base's tensors with all adapters merged."""
    found = {name: array.astype(np.float64) for name, array in base.items()}
    for lora in loras:
        parts = tensors(lora, base)
        for module, scale in lora.scales.items():
            a, b = (parts[f"{PREFIX}{module}.lora_{letter}.weight"].astype(np.float64) for letter in "AB")
            found[f"{module}.weight"] += scale * (b @ a)
    return {name: array.astype(np.float32) for name, array in found.items()}
