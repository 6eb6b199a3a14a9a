"""LoraConfig: PEFT's adapter_config.json, which says what a LoRA adapts and how strongly."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from edgert.bundle.record import Between, read_record
from edgert.errors import CheckpointError

from .json_file import read_json

CONFIG = "adapter_config.json"
ALL_LINEAR = r"model\.layers\..*"  # "all-linear" of PEFT leaves out the head
REMEDY = "merge it with PEFT (merge_and_unload), save the model, and export that"

# What makes an adapter more than scale · B·A on matrices, or its base other than the checkpoint.
# Of the fields that begin with use_, PEFT's names for variants of LoRA, only use_rslora is known.
BEYOND_LORA = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
)
CHANGES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")  # values of init_lora_weights

Rank = Annotated[int, Between(1, 1 << 16)]


@dataclass(frozen=True)
class LoraConfig:
    """By PEFT's own names, but what selects modules is a regular expression of their whole name.

    `fan_in_fan_out`: the base has Conv1D, GPT-2's matrices, columns first; elsewhere PEFT leaves it alone.
    """

    r: Rank
    lora_alpha: float
    target_modules: str
    exclude_modules: str | None = None
    layers_to_transform: tuple[int, ...] | None = None
    use_rslora: bool = False
    fan_in_fan_out: bool = False
    rank_pattern: Mapping[str, Rank] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    def targets(self, module: str) -> bool:
        """Whether it adapts `model.layers.3.self_attn.q_proj`."""
        if self.exclude_modules is not None and re.fullmatch(self.exclude_modules, module):
            return False
        if not re.fullmatch(self.target_modules, module):
            return False
        number = re.match(r".*?\.[^.]*\.(\d+)\.", module)
        return not self.layers_to_transform or (
            number is not None and int(number[1]) in self.layers_to_transform
        )

    def rank(self, module: str) -> int:
        """Columns of B and rows of A."""
        return self.rank_pattern.get(_first_match(self.rank_pattern, module), self.r)

    def scale(self, module: str) -> float:
        """The factor on B·A."""
        alpha = self.alpha_pattern.get(_first_match(self.alpha_pattern, module), self.lora_alpha)
        rank = self.rank(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def read_lora_config(folder: Path) -> LoraConfig:
    """Raises CheckpointError if it isn't there, isn't valid, or asks for more than a LoRA of matrices."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; is {folder} an adapter as PEFT saves it?")
    table = read_json(path)
    try:
        _refuse_variants(table)
        config = read_record(LoraConfig, _in_one_form(table))
        patterns = (config.target_modules, config.exclude_modules or "")
        for pattern in (*patterns, *config.rank_pattern, *config.alpha_pattern):
            re.compile(pattern)
    except re.error as error:
        raise CheckpointError(f"{path}: {error.pattern!r} is no regular expression ({error})") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return config


def _refuse_variants(table: Mapping[str, Any]) -> None:
    """Raises ValueError."""
    kind, bias = table.get("peft_type"), table.get("bias")
    if kind != "LORA":
        raise ValueError(f"peft_type {kind!r} is not supported, only 'LORA': {REMEDY}")
    if bias not in (None, "none"):
        raise ValueError(f"bias {bias!r} is not supported: it trains biases, too; {REMEDY}")
    start = table.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        raise ValueError(f"init_lora_weights {start!r} is not supported: it changes the base, too; {REMEDY}")
    for name, value in table.items():
        variant = name.startswith("use_") and name != "use_rslora"
        if value and (variant or name in BEYOND_LORA):
            raise ValueError(f"{name} is not supported, only a LoRA of the layers' matrices: {REMEDY}")


def _in_one_form(table: Mapping[str, Any]) -> dict[str, Any]:
    """Without nulls; lists of names as regular expressions, one layer as a list of layers."""
    found = {name: value for name, value in table.items() if value is not None}
    if found.get("target_modules") == "all-linear":
        found["target_modules"] = ALL_LINEAR
    for name in ("target_modules", "exclude_modules"):
        value = found.get(name)
        if isinstance(value, list):
            found[name] = _named(map(str, value))
    if isinstance(found.get("layers_to_transform"), int):
        found["layers_to_transform"] = [found["layers_to_transform"]]
    return found


def _named(names: Iterable[str]) -> str:
    """Modules that have one of the names, or end with one after a dot."""
    return rf"(.*\.)?({'|'.join(re.escape(name) for name in names)})"


def _first_match(patterns: Iterable[str], module: str) -> str:
    """The pattern that PEFT takes: the first that matches, at the start or after a dot."""
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), module)
