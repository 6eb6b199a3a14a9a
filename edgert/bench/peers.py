"""Peers: other engines and other bundles that do a round's work in turn with edgert."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgert import devices
from edgert.bench.pace import Course, Speeds, runner
from edgert.bundle import open_bundle
from edgert.engine.loading import Loaded, load
from edgert.errors import EdgertError, UsageError
from edgert.home import find_bundle
from edgert.text.tokenizer import open_tokenizer

LLAMA_BENCH = "llama-bench"
VARIABLE = "LLAMA_BENCH"


@dataclass(frozen=True)
class Rival:
    """What to compare with: an engine by name, and the file or folder it runs."""

    name: str
    path: str

    def __str__(self) -> str:
        return f"{self.name} {Path(self.path).name}"


class Peer(Protocol):
    """A rival at work."""

    def lap(self, course: Course) -> Speeds:
        """Its speeds in one round. Raises EdgertError."""
        ...


def parse(text: str) -> Rival:
    """NAME=PATH, of a name that is known. Raises UsageError."""
    name, _, path = text.partition("=")
    if name not in OPENERS or not path:
        known = ", ".join(OPENERS)
        raise UsageError(f"--against '{text}': write NAME=PATH, where NAME is one of {known}")
    return Rival(name, path)


def check(rival: Rival) -> None:
    """Whether it is all there, before anything is measured. Raises UsageError, BundleError."""
    if rival.name == "edgert":
        open_bundle(find_bundle(rival.path))
        return
    _llama_bench()
    if not Path(rival.path).is_file():
        raise UsageError(f"--against {rival.name}: there is no file {rival.path}")


def open_peer(rival: Rival, loaded: Loaded) -> Peer:
    """The rival, to run as `loaded` does. Raises EdgertError."""
    return OPENERS[rival.name](rival.path, loaded)


class LlamaCpp:
    """llama.cpp by its own llama-bench, on a GGUF file, with as many threads as edgert.

    Each depth is measured with flash attention and without, and the quicker counts: neither always is. Where
    edgert computes on the processor, so does llama.cpp. Its cache holds 16-bit keys and values, its default.
    """

    def __init__(self, path: str, loaded: Loaded) -> None:
        threads = loaded.threads or devices.processors()
        place = ["-dev", "none"] if loaded.profile.on_cpu else []
        fixed = ["-m", path, "-t", str(threads), "-fa", "0,1", "-r", "1", "-o", "json"]
        self._command = [_llama_bench(), *fixed, *place]

    def lap(self, course: Course) -> Speeds:
        """One process for the prompt, one for the depths; each warms up by itself."""
        prefill = self._best("-p", str(course.prompt), "-n", "0")
        depths = ",".join(map(str, course.depths))
        decode = self._best("-p", "0", "-n", str(course.steps), "-d", depths)
        try:
            return Speeds(prefill[0], {depth: decode[depth] for depth in course.depths})
        except KeyError as error:
            raise EdgertError(f"{self._command[0]} did not measure at a depth of {error}") from error

    def _best(self, *what: str) -> dict[int, float]:
        """Tokens per second by depth."""
        printed = self._run([*self._command, *what])
        best: dict[int, float] = {}
        try:
            for test in json.loads(printed):
                depth, speed = int(test.get("n_depth", 0)), float(test["avg_ts"])
                best[depth] = max(speed, best.get(depth, 0.0))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise EdgertError(f"{self._command[0]} printed something else than its JSON: {error}") from error
        return best

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
            raise EdgertError(f"{command[0]} failed: {said[-1]}")
        return done.stdout


class OtherBundle:
    """edgert on another bundle, on the same device, with as long a cache. Raises UsageError."""

    def __init__(self, path: str, loaded: Loaded) -> None:
        bundle = open_bundle(find_bundle(path))
        wanted, longest = loaded.decoder.capacity, bundle.manifest.model.context
        if longest < wanted:
            raise UsageError(f"{path} holds {longest} tokens only: compare with --context {longest}")
        decoder = load(bundle, loaded.profile, wanted).decoder
        self._runner = runner(bundle, decoder, open_tokenizer(bundle))

    def lap(self, course: Course) -> Speeds:
        """The same work as ours."""
        return self._runner.lap(course).speeds


OPENERS: Mapping[str, Callable[[str, Loaded], Peer]] = {"llama.cpp": LlamaCpp, "edgert": OtherBundle}


def _llama_bench() -> str:
    """The program. Raises UsageError where there is none."""
    given = os.environ.get(VARIABLE)
    found = shutil.which(given or LLAMA_BENCH)
    if found is None:
        where = f"{VARIABLE}={given} is no program" if given else f"{LLAMA_BENCH} is not on the PATH"
        raise UsageError(
            f"{where}: it comes with llama.cpp (brew install llama.cpp, or "
            f"https://github.com/ggml-org/llama.cpp/releases); put it on the PATH, or its path in {VARIABLE}"
        )
    return found
