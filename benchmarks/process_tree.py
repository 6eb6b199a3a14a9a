"""A command with all processes that it starts: how long they take, and how much memory together (Linux)."""

from __future__ import annotations

import contextlib
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STEP = 0.05  # seconds between two looks


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock and of the processors, and the most bytes that were resident at a time."""

    seconds: float
    cpu: float
    peak: int


def measure(*command: object) -> Cost:
    """Run a command to its end; what it prints goes to standard error. Stops where the command fails."""
    start, cpu, peak = time.perf_counter(), _cpu(), 0
    with subprocess.Popen([str(word) for word in command], stdout=sys.stderr) as process:
        while process.poll() is None:
            peak = max(peak, sum(_resident(pid) for pid in _tree(process.pid)))
            time.sleep(STEP)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    return Cost(time.perf_counter() - start, _cpu() - cpu, peak)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):  # it has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _tree(int(child))


def _resident(pid: int) -> int:
    """Pages that several processes share count in parts."""
    with contextlib.suppress(OSError):  # it has ended
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    return 0
