"""Energy: what the machine used, where it tells: Intel's and AMD's counters, the Raspberry Pi 5's power chip.

It is that of the whole processor or board, with what other programs take, and what it takes when idle.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

POWERCAP = Path("/sys/class/powercap")
EVERY = 0.5  # seconds between two readings of a Raspberry Pi's power, for each of which a process starts


class Meter(Protocol):
    """Something that tells what work takes."""

    def start(self) -> None:
        """The work begins."""
        ...

    def stop(self) -> float | None:
        """Joules since `start`, None where a reading failed."""
        ...


@dataclass(frozen=True)
class Found:
    """The meter of this machine; without one, `reason` says why in words."""

    meter: Meter | None
    reason: str = ""


def find() -> Found:
    """What this machine has."""
    zones = [zone for zone in sorted(POWERCAP.glob("intel-rapl:*")) if _counts(zone)]
    if zones:
        readable = [zone for zone in zones if _number(zone / "energy_uj") is not None]
        if len(readable) == len(zones):
            return Found(Counters(tuple(zones)))
        return Found(None, "this machine tells its energy to its administrator only")
    command = shutil.which("vcgencmd")
    if command and _watts(command) is not None:
        return Found(PowerChip(command))
    return Found(None, "this machine does not tell its energy")


class Counters:
    """RAPL: counters of microjoules, one per package, and one of its memory where that is apart."""

    def __init__(self, zones: tuple[Path, ...]) -> None:
        self._zones = zones
        self._before: list[int | None] = []

    def start(self) -> None:
        self._before = self._read()

    def stop(self) -> float | None:
        """Counters begin again when they reach their range, on servers every few minutes."""
        total = 0
        for zone, before, after in zip(self._zones, self._before, self._read(), strict=True):
            if before is None or after is None:
                return None
            wrapped = (_number(zone / "max_energy_range_uj") or 0) if after < before else 0
            total += after - before + wrapped
        return total / 1e6

    def _read(self) -> list[int | None]:
        return [_number(zone / "energy_uj") for zone in self._zones]


class PowerChip:
    """A Raspberry Pi 5's: it tells the power of the moment, which a thread of its own reads meanwhile."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._watts: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread()
        self._started = 0.0

    def start(self) -> None:
        self._watts, self._done = [], threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._started = time.perf_counter()
        self._thread.start()

    def stop(self) -> float | None:
        seconds = time.perf_counter() - self._started
        self._done.set()
        self._thread.join()
        return statistics.mean(self._watts) * seconds if self._watts else None

    def _watch(self) -> None:
        while True:
            watts = _watts(self._command)
            if watts is not None:
                self._watts.append(watts)
            if self._done.wait(EVERY):
                return


def _counts(zone: Path) -> bool:
    """Packages, and their memory; cores are parts of a package, and the platform's counter holds them all."""
    try:
        name = (zone / "name").read_text("ascii").strip()
    except (OSError, ValueError):
        return False
    return name.startswith("package") or name == "dram"


def _number(path: Path) -> int | None:
    """Since 2020 Linux shows counters to root only."""
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None


def _watts(command: str) -> float | None:
    """Volts times amperes of every rail: `VDD_CORE_A current(7)=1.31A`, `VDD_CORE_V volt(15)=0.87V`."""
    query = [command, "pmic_read_adc"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    amperes = dict(re.findall(r"(\w+)_A current\(\d+\)=([\d.]+)A", done.stdout))
    volts = dict(re.findall(r"(\w+)_V volt\(\d+\)=([\d.]+)V", done.stdout))
    rails = amperes.keys() & volts.keys()
    return sum(float(amperes[rail]) * float(volts[rail]) for rail in rails) if rails else None
