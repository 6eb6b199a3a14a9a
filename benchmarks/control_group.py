"""Processes under a memory limit: a control group each, as containers have. Linux, as root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def why_not() -> str:
    """Why no group can be made here; empty if one can."""
    try:
        with _group(1 << 30):
            return ""
    except OSError as error:
        return f"no control group with a memory limit can be made here: {error}"


def run(command: Sequence[str], limit: int) -> subprocess.CompletedProcess[str]:
    """Run a command to its end within `limit` bytes; what needs more is killed. Raises OSError."""
    with _group(limit) as group:
        shell = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group), *command]
        return subprocess.run(shell, capture_output=True, text=True, check=False)


@contextmanager
def _group(limit: int) -> Iterator[Path]:
    first = (ROOT / "cgroup.controllers").exists()  # version 2
    group = (ROOT if first else ROOT / "memory") / f"edgert-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.max" if first else "memory.limit_in_bytes")).write_text(str(limit))
        swap = group / ("memory.swap.max" if first else "memory.memsw.limit_in_bytes")
        if swap.exists():
            swap.write_text("0" if first else str(limit))
        yield group
    finally:
        group.rmdir()
