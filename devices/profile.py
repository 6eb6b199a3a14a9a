"""DeviceProfile: what is known about one kind of machine, read from TOML where each value has its reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgert.bundle import FORMS
from edgert.bundle.graph_io import KV_KINDS
from edgert.errors import DeviceError

from .hardware import Hardware
from .table import DEFAULT

BLOCK_SIZES = (16, 32, 64, 128, 256)
MATRICES = ("qkv", "o", "gate", "up", "down", "head")
SLOW = 1.5  # times the time of a device's own form: worth a line


@dataclass(frozen=True)
class MatMulForm:
    """How weight matrices are stored for a device.

    `form` "blocks": codes with a scale for every `block_size` weights of each kind of matrix (`head` is the
    token embedding, too), for MatMulNBits at `accuracy_level`; "rows": a scale per row, for whole integer
    products. `rotate`: in a basis where no channel stands out; `hadamard`: how many inputs of down are
    rotated together at run time, 0 for none; `spread`: such blocks are mixed with each other, too.
    `calibrate`: weights are rounded by what they multiply.
    """

    form: str
    accuracy_level: int
    block_size: Mapping[str, int]
    rotate: bool
    hadamard: int
    spread: bool
    calibrate: bool


@dataclass(frozen=True)
class Memory:
    """Bytes: the sizes that such machines are sold with (none where they vary), and what the system needs."""

    sizes: tuple[int, ...]
    system: int


CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Provider:
    """The execution provider of onnxruntime that computes, and options by the provider's own keys."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DeviceProfile:
    """One kind of machine.

    `processor`: the features that a processor needs, by architecture; `boards`: how such machines name
    themselves. `threads` 0 means one per physical core; `context` is in tokens, `kv` how they are cached
    unless the bundle or the user says otherwise. `prepare`: whether a copy with packed weights pays.
    `slower`: how many times the time per token of the best form other forms take, by `FORMS`. `source`
    is what `devices.load` found it by.
    """

    name: str
    title: str
    boards: tuple[str, ...]
    processor: Mapping[str, tuple[str, ...]]
    threads: int
    spin: bool
    context: int
    kv: str
    prefill_chunk: int
    prepare: bool
    memory: Memory
    provider: Provider
    slower: Mapping[str, float]
    int8: MatMulForm
    int4: MatMulForm
    source: str

    @property
    def on_cpu(self) -> bool:
        """Whether onnxruntime's own provider for processors computes."""
        return self.provider.name == CPU

    def suits(self, hardware: Hardware) -> bool:
        """Whether the processor has what the profile's kernels need."""
        needed = self.processor.get(hardware.architecture)
        return needed is not None and hardware.features.issuperset(needed)

    def is_slow(self, form: str) -> bool:
        """Whether a form takes so much longer than the best one that users should hear of it."""
        return form != "fp32" and self.cost(form) > SLOW

    def cost(self, form: str) -> float:
        """Time per token of weights in a form, in times of this device's best; 1 where nothing is known."""
        return self.slower.get(form, 1.0)


def profile_of(table: Mapping[str, Any], source: str) -> DeviceProfile:
    """The profile of a complete table; `source` names it in errors. Raises DeviceError."""
    try:
        return _profile(table, source)
    except KeyError as error:
        raise DeviceError(f"{source}: the profile lacks {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise DeviceError(f"{source}: {error}") from error


def _profile(table: Mapping[str, Any], source: str) -> DeviceProfile:
    if not re.fullmatch(r"[a-z0-9-]+", table["name"]):
        raise ValueError(f"name must be lower-case letters, digits and dashes: {table['name']!r}")
    for name in ("context", "prefill_chunk"):
        if not isinstance(table[name], int) or table[name] < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {table[name]!r}")
    for name in ("spin", "prepare"):
        if not isinstance(table[name], bool):
            raise ValueError(f"{name} must be true or false, not {table[name]!r}")
    if table["kv"] not in KV_KINDS:
        raise ValueError(f"kv must be {' or '.join(KV_KINDS)}, not {table['kv']!r}")
    return DeviceProfile(
        name=table["name"],
        title=table["title"],
        boards=tuple(table["boards"]),
        processor={name: tuple(features) for name, features in table["processor"].items()},
        threads=0 if table["threads"] == "physical" else int(table["threads"]),
        spin=bool(table["spin"]),
        context=int(table["context"]),
        kv=table["kv"],
        prefill_chunk=int(table["prefill_chunk"]),
        prepare=bool(table["prepare"]),
        memory=_memory(table["memory"]),
        provider=_provider(table["provider"]),
        slower=_slower(table["slower"]),
        int8=_matmul_form(table["int8"], "int8"),
        int4=_matmul_form(table["int4"], "int4"),
        source=source,
    )


def _memory(table: Mapping[str, Any]) -> Memory:
    """Given in MiB, as boards are sold."""
    return Memory(tuple(int(size) << 20 for size in table["sizes"]), int(table["system"]) << 20)


def _provider(table: Mapping[str, Any]) -> Provider:
    options = table.get("options", {})
    for key, value in options.items():
        if not isinstance(value, str):
            raise ValueError(f"provider.options.{key} must be a text in quotes, not {value!r}")
    return Provider(table["name"], options)


def _slower(table: Mapping[str, Any]) -> dict[str, float]:
    for form, times in table.items():
        if form not in FORMS or not times > 0:
            raise ValueError(f"slower.{form} must be one of {', '.join(FORMS)}, and above 0")
    return {form: float(times) for form, times in table.items()}


def _matmul_form(table: Mapping[str, Any], name: str) -> MatMulForm:
    known = ("blocks", "rows") if name == "int8" else ("blocks",)
    if table["form"] not in known:
        raise ValueError(f"{name}.form must be {' or '.join(known)}, not {table['form']!r}")
    hadamard = int(table["hadamard"])
    if hadamard < 0 or hadamard & (hadamard - 1):
        raise ValueError(f"{name}.hadamard must be a power of two or 0, not {hadamard}")
    blocks = _block_sizes(table["block_size"], f"{name}.block_size") if table["form"] == "blocks" else {}
    return MatMulForm(
        form=table["form"],
        accuracy_level=int(table["accuracy_level"]),
        block_size=blocks,
        rotate=bool(table["rotate"]),
        hadamard=hadamard,
        spread=bool(table["spread"]),
        calibrate=bool(table["calibrate"]),
    )


def _block_sizes(table: Mapping[str, Any], name: str) -> dict[str, int]:
    """The size for each kind of matrix: its own, or the default."""
    if missing := [kind for kind in MATRICES if not {kind, DEFAULT} & table.keys()]:
        raise KeyError(f"{name}.{missing[0]}")
    for kind, size in table.items():
        if kind not in (*MATRICES, DEFAULT):
            raise ValueError(f"{name}.{kind} must be {', '.join(MATRICES)} or {DEFAULT}")
        if size not in BLOCK_SIZES:
            raise ValueError(f"{name}.{kind} must be 16, 32, 64, 128 or 256, not {size!r}")
    return {kind: table[kind] if kind in table else table[DEFAULT] for kind in MATRICES}
