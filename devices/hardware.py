"""Hardware: what this machine is, as far as profiles care: processor, its features, board, cores, memory."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ARCHITECTURES = {"amd64": "x86_64", "aarch64": "arm64"}

# What kernels are chosen by, under one name everywhere: Linux, macOS (sysctl), Windows (winnt.h).
LINUX_FEATURES = {
    "avx2": "avx2",
    "avx_vnni": "avx_vnni",
    "avx512_vnni": "avx512_vnni",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
}
MACOS_FEATURES = {
    "hw.optional.avx2_0": "avx2",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
}
WINDOWS_FEATURES = {40: "avx2", 43: "dotprod"}


@dataclass(frozen=True)
class Hardware:
    """One machine; `memory`: all bytes that this process may use, `board`: of single-board computers."""

    system: str
    architecture: str
    processor: str
    features: frozenset[str]
    memory: int
    board: str = ""

    @property
    def saturates(self) -> bool:
        """Whether sums of 8-bit products overflow in the fast kernels: on x86-64 without VNNI."""
        return self.architecture == "x86_64" and not self.features & {"avx_vnni", "avx512_vnni"}

    def __str__(self) -> str:
        found = ", ".join(sorted(self.features)) or "none that kernels are chosen by"
        place = f"{self.board}, " if self.board else ""
        return f"{place}{self.processor} ({self.system} on {self.architecture}; features: {found})"


@dataclass(frozen=True)
class Threads:
    """How many threads to compute with on this machine and why; 0 leaves it to onnxruntime."""

    count: int
    reason: str


@cache
def here() -> Hardware:
    """This machine."""
    machine = platform.machine().lower()
    architecture = ARCHITECTURES.get(machine, machine)
    if sys.platform == "linux":
        return from_linux(architecture, _text("/proc/cpuinfo"), _text("/proc/device-tree/model"))
    if sys.platform == "darwin":
        features = {name for key, name in MACOS_FEATURES.items() if _sysctl(key) == "1"}
        processor = _sysctl("machdep.cpu.brand_string")
    else:
        features = {name for key, name in WINDOWS_FEATURES.items() if _windows_has(key)}
        processor = platform.processor()
    return Hardware(
        platform.system(), architecture, processor or machine, frozenset(features), memory_total()
    )


def from_linux(architecture: str, cpuinfo: str, model: str) -> Hardware:
    """What /proc/cpuinfo and the device tree say."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    flags = (fields.get("flags") or fields.get("features") or "").split()
    features = frozenset(LINUX_FEATURES[flag] for flag in flags if flag in LINUX_FEATURES)
    # Containers hide the device tree; cpuinfo of a Raspberry Pi names the board, too.
    board = model.strip("\0 \n") or (fields.get("model", "") if architecture == "arm64" else "")
    part = fields.get("cpu part", "")
    processor = fields.get("model name") or CORTEX.get(part) or f"processor part {part or 'unknown'}"
    return Hardware("Linux", architecture, processor, features, memory_total(), board)


# "CPU part" of /proc/cpuinfo, by Arm's own numbers.
CORTEX = {
    "0xd03": "Cortex-A53",
    "0xd05": "Cortex-A55",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse N1",
}


def physical_threads() -> Threads:
    """One thread per physical core this process may run on."""
    cores = _linux_physical_cores()
    if cores is None:
        return Threads(0, "one thread per physical core, as onnxruntime counts them")
    quota = _linux_cpu_quota()
    if quota is not None and quota < cores:
        return Threads(quota, f"a quota of {quota} of {cores} physical cores")
    return Threads(cores, f"{cores} physical cores of {len(os.sched_getaffinity(0))} processors")


def processors() -> int:
    """How many processors this process may use, hyper-threads included."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), _linux_cpu_quota() or 1 << 10)
    return os.cpu_count() or 1


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


def memory_total() -> int:
    """Bytes of memory this process may ever use: the machine's, or the limit that it runs under."""
    return min([_machine_memory()[0], *_limits()])


def memory_available() -> int:
    """Bytes it could use now without pushing anything else out; page cache counts as free."""
    return max(0, min([_machine_memory()[1], *_rooms()]))


def _machine_memory() -> tuple[int, int]:
    """Bytes the machine has, and of these available."""
    if sys.platform == "linux":
        found: dict[str, str] = dict(re.findall(r"^(\w+): +(\d+) kB", _text("/proc/meminfo"), re.MULTILINE))
        total = int(found.get("MemTotal", 1 << 40)) * 1024  # unknown is no reason to refuse
        return total, int(found.get("MemAvailable", total // 1024)) * 1024
    if sys.platform == "darwin":
        return int(_sysctl("hw.memsize")), _macos_available()
    return _windows_memory()


def _macos_available() -> int:
    """Pages that are free or can be dropped, as `vm_stat` counts them."""
    printed = subprocess.run(["/usr/bin/vm_stat"], capture_output=True, text=True, check=True).stdout
    size = int("".join(re.findall(r"page size of (\d+)", printed)))
    counts = dict(re.findall(r"^(.+?): +(\d+)\.", printed, re.MULTILINE))
    return size * sum(int(counts[f"Pages {kind}"]) for kind in ("free", "inactive", "speculative"))


def _windows_memory() -> tuple[int, int]:
    class Status(ctypes.Structure):
        """MEMORYSTATUSEX."""

        _fields_ = (
            ("length", ctypes.c_uint32),
            ("load", ctypes.c_uint32),
            *((name, ctypes.c_uint64) for name in ("total", "available", *"abcde")),
        )

    status = Status(length=ctypes.sizeof(Status))
    _kernel32().GlobalMemoryStatusEx(ctypes.byref(status))
    return status.total, status.available


def _limits() -> Iterator[int]:
    """Memory limits of every control group that this process is in (versions 1 and 2)."""
    yield from (limit for limit, _ in _groups())


def _rooms() -> Iterator[int]:
    """What is left of each limit."""
    yield from (limit - used for limit, used in _groups())


def _groups() -> Iterator[tuple[int, int]]:
    """Limit and use of the control groups of this process that have a limit, from its own up to the root."""
    for line in _text("/proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            yield from _group("/sys/fs/cgroup", path, ("memory.max", "memory.current", "inactive_file"))
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _group("/sys/fs/cgroup/memory", path, files)


def _group(root: str, path: str, names: tuple[str, str, str]) -> Iterator[tuple[int, int]]:
    """Files that were read and not written lie in the group's cache: they make room when it is needed."""
    limit, usage, cached = names
    place = Path(path)
    for folder in (place, *place.parents):
        group = Path(f"{root}{folder}")
        most, used = _text(group / limit).strip(), _text(group / usage).strip()
        if most.isdigit() and used.isdigit() and int(most) < 1 << 60:
            stat = dict(line.split() for line in _text(group / "memory.stat").splitlines())
            active = int(stat.get(cached.replace("inactive", "active"), 0))
            yield int(most), int(used) - int(stat.get(cached, 0)) - active


def _text(path: str | Path) -> str:
    """Content of one of the system's small files; empty where there is none."""
    try:
        return Path(path).read_text("utf-8", errors="replace")
    except OSError:
        return ""


def _sysctl(key: str) -> str:
    """A macOS setting, empty where the machine has none of that name."""
    command = ["/usr/sbin/sysctl", "-n", key]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _windows_has(feature: int) -> bool:
    return bool(_kernel32().IsProcessorFeaturePresent(feature))


def _kernel32() -> Any:
    """Looked up by name, since other systems' ctypes lacks it."""
    return vars(ctypes)["windll"].kernel32
