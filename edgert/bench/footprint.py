"""Footprint: what a process of its own takes to load a bundle and to read a prompt: seconds and bytes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgert.errors import EdgertError

STATUS = Path("/proc/self/status")
DECODED_TOKENS = 4  # tokens that are decoded after the prompt


@dataclass(frozen=True)
class Resident:
    """Bytes of a process: of its own, of files that the system can drop, and the most there ever were."""

    anonymous: int
    files: int
    peak: int


@dataclass(frozen=True)
class Footprint:
    """Seconds that `edgert.load` took, and what was resident after a prompt; None where that is not known."""

    load: float
    resident: Resident | None


@dataclass(frozen=True)
class Opening:
    """How to load: arguments of `edgert.load`."""

    path: str
    device: str | None
    context: int | None
    kv: str | None
    force: bool
    threads: int | None = None


def measure(opening: Opening, prompt: list[int]) -> Footprint:
    """Load in a fresh process and read a prompt there. Raises EdgertError with what the process said."""
    command = [sys.executable, "-P", "-W", "ignore", "-m", "edgert.bench.footprint"]
    asked = json.dumps({"opening": asdict(opening), "prompt": prompt})
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False, encoding="utf-8")
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise EdgertError(f"{opening.path} in a process of its own: {said[-1]}")
    table = json.loads(done.stdout)
    resident = table["resident"] and Resident(**table["resident"])
    return Footprint(table["load"], resident)


def resident() -> Resident | None:
    """Of this process, as Linux counts it; other systems do not tell files from the rest."""
    try:
        found = dict(re.findall(r"^(\w+):\s+(\d+) kB", STATUS.read_text("ascii", "replace"), re.MULTILINE))
        sizes = [int(found[name]) * 1024 for name in ("RssAnon", "RssFile", "VmHWM")]
    except (OSError, KeyError):
        return None
    return Resident(*sizes)


def load_here(opening: Opening, prompt: list[int]) -> Footprint:
    """Load in this process, and read the prompt."""
    from edgert.model import load

    start = time.perf_counter()
    model = load(**asdict(opening))
    seconds = time.perf_counter() - start
    for _ in model.stream(prompt[: model.context - 1] or prompt, max_tokens=DECODED_TOKENS):
        pass
    return Footprint(seconds, resident())


def main() -> None:
    """What `measure` starts: the question on standard input, the answer on standard output."""
    asked: dict[str, Any] = json.load(sys.stdin)
    try:
        found = load_here(Opening(**asked["opening"]), asked["prompt"])
    except EdgertError as error:
        sys.exit(str(error))
    json.dump(asdict(found), sys.stdout)


if __name__ == "__main__":
    main()
