"""Device profiles: what is known about the hardware, one TOML a device, each value with its reason.

The exporter asks a profile for the form of the graph, the runtime for threads, provider and context.
Nothing else in edgert knows anything about hardware.
"""

from __future__ import annotations

import os
import platform
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from edgert.errors import DeviceError

__all__ = ["Detection", "DeviceProfile", "MatMulForm", "Threads", "detect", "load", "names"]

DEFAULT = "laptop-cpu"
BLOCK_SIZES = (16, 32, 64, 128, 256)
MATRICES = ("qkv", "o", "gate", "up", "down", "head")


@dataclass(frozen=True)
class MatMulForm:
    """How weight matrices are stored for a device.

    `form` "blocks": codes with a scale a block, for MatMulNBits at `accuracy_level`, `block_size` weights of
    each kind of matrix a scale (`head` stands for the token embedding, too); "rows": a scale a row, for whole
    integer products. `rotate`: in a basis where no channel stands out; `hadamard`: how many inputs of down
    are rotated together at run time, 0 for none. `calibrate`: weights are rounded by what they multiply.
    """

    form: str
    accuracy_level: int
    block_size: Mapping[str, int]
    rotate: bool
    hadamard: int
    calibrate: bool


@dataclass(frozen=True)
class DeviceProfile:
    """One kind of machine. `threads` 0 means one per physical core; `context` is in tokens."""

    name: str
    title: str
    threads: int
    spin: bool
    context: int
    prefill_chunk: int
    provider: str
    int8: MatMulForm
    int4: MatMulForm


@dataclass(frozen=True)
class Detection:
    """The profile chosen for this machine and the reason, in words."""

    profile: DeviceProfile
    reason: str


@dataclass(frozen=True)
class Threads:
    """How many threads to compute with on this machine and why; 0 leaves it to onnxruntime."""

    count: int
    reason: str


def names() -> list[str]:
    """Names of the profiles that ship with edgert."""
    folder = resources.files(__name__)
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def load(name: str) -> DeviceProfile:
    """Read a profile by name, or a user's own TOML file by path. Raises DeviceError."""
    if name in names():
        return _parse(resources.files(__name__).joinpath(f"{name}.toml").read_text("utf-8"), name)
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        try:
            return _parse(path.read_text("utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise DeviceError(f"{path}: {error}") from error
    raise DeviceError(f"unknown device '{name}': choose one of {', '.join(names())}, or give a .toml file")


def detect() -> Detection:
    """Choose the profile for this machine."""
    reason = f"{platform.system()} on {platform.machine()}, {physical_threads().reason}"
    return Detection(load(DEFAULT), reason)


def physical_threads() -> Threads:
    """One thread per physical core this process may run on."""
    cores = _linux_physical_cores()
    if cores is None:
        return Threads(0, "one thread per physical core, as onnxruntime counts them")
    quota = _linux_cpu_quota()
    if quota is not None and quota < cores:
        return Threads(quota, f"a quota of {quota} of {cores} physical cores")
    return Threads(cores, f"{cores} physical cores of {len(os.sched_getaffinity(0))} processors")


def _linux_cpu_quota() -> int | None:
    """Processors a container may use (cgroup v2), rounded up; None if it may use all."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        return None if quota == "max" else max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        return None


def _linux_physical_cores() -> int | None:
    """Distinct sets of hyper-thread siblings among the processors this process may use; None elsewhere."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    siblings = set()
    for cpu in os.sched_getaffinity(0):
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            siblings.add(path.read_text("ascii").strip())
        except OSError:
            return None
    return len(siblings) or None


def _parse(text: str, source: str) -> DeviceProfile:
    try:
        table = tomllib.loads(text)
        return _profile(table)
    except tomllib.TOMLDecodeError as error:
        raise DeviceError(f"{source}: not valid TOML: {error}") from error
    except KeyError as error:
        raise DeviceError(f"{source}: the profile lacks {error}") from error
    except (TypeError, ValueError) as error:
        raise DeviceError(f"{source}: {error}") from error


def _profile(table: Mapping[str, Any]) -> DeviceProfile:
    if not re.fullmatch(r"[a-z0-9-]+", table["name"]):
        raise ValueError(f"name must be lower-case letters, digits and dashes: {table['name']!r}")
    threads = table["threads"]
    for name in ("context", "prefill_chunk"):
        if not isinstance(table[name], int) or table[name] < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {table[name]!r}")
    return DeviceProfile(
        name=table["name"],
        title=table["title"],
        threads=0 if threads == "physical" else int(threads),
        spin=bool(table["spin"]),
        context=int(table["context"]),
        prefill_chunk=int(table["prefill_chunk"]),
        provider=table["provider"]["name"],
        int8=_matmul_form(table["int8"], "int8"),
        int4=_matmul_form(table["int4"], "int4"),
    )


def _matmul_form(table: Mapping[str, Any], name: str) -> MatMulForm:
    known = ("blocks", "rows") if name == "int8" else ("blocks",)
    if table["form"] not in known:
        raise ValueError(f"{name}.form must be {' or '.join(known)}, not {table['form']!r}")
    hadamard = int(table["hadamard"])
    if hadamard < 0 or hadamard & (hadamard - 1):
        raise ValueError(f"{name}.hadamard must be a power of two or 0, not {hadamard}")
    sizes = {}
    if table["form"] == "blocks":
        sizes = {kind: table["block_size"][kind] for kind in MATRICES}
    for kind, size in sizes.items():
        if size not in BLOCK_SIZES:
            raise ValueError(f"{name}.block_size.{kind} must be 16, 32, 64, 128 or 256, not {size!r}")
    return MatMulForm(
        form=table["form"],
        accuracy_level=int(table["accuracy_level"]),
        block_size=sizes,
        rotate=bool(table["rotate"]),
        hadamard=hadamard,
        calibrate=bool(table["calibrate"]),
    )
