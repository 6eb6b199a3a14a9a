"""llama-perplexity: a GGUF file's predictions for a text, and how far another file's are from them.

It cuts the text into windows of `n_ctx` tokens, end to end; feeds each with an empty cache, its first token
replaced by BOS where the vocabulary adds one; and scores the positions from n_ctx / 2 on whose next token
is in the window too (perplexity.cpp: `first = n_ctx/2`, `n_ctx - 1 - first`): 256 to 510 of 0 to 511.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import peers

from edgert import devices
from edgert.bundle import Fidelity

WINDOW = 512
SKIP = WINDOW // 2
SCORED = WINDOW - 1 - SKIP  # positions of a window
HEADER = np.dtype([("magic", "S8"), ("window", "<i4"), ("vocab", "<i4"), ("windows", "<i4")])


@dataclass(frozen=True)
class Base:
    """The reference's log-probabilities in a file (uint16 over 16 nats), and its perplexity before that."""

    path: Path
    perplexity: float

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        """The text as llama.cpp cut it, (windows, WINDOW)."""
        header = np.fromfile(self.path, HEADER, 1)[0]
        count = int(header["windows"]) * int(header["window"])
        return np.fromfile(self.path, "<i4", count, offset=HEADER.itemsize).reshape(-1, header["window"])


def reference(model: Path, text: Path, target: Path, windows: int) -> Base:
    """Score a text with an F32 GGUF file; `windows` -1: all that the text fills."""
    # The quantized files run with the default cache, which is F16; the reference is F32 throughout.
    cache = ("--cache-type-k", "f32", "--cache-type-v", "f32")
    output = _run(model, target, "--file", text, "--chunks", windows, *cache)
    return Base(target, _number("Final estimate: PPL =", output))


def divergence(model: Path, base: Base) -> Fidelity:
    """How far a GGUF file's predictions are from the base's, on the base's text."""
    output = _run(model, base.path, "--kl-divergence")
    return Fidelity(
        tokens=len(base.tokens) * SCORED,
        mean_kl=_number("Mean    KLD:", output),
        p99_kl=_number("99.0%   KLD:", output),
        top1=_number("Same top p:", output) / 100,
        perplexity=_number("Mean PPL(Q)                   :", output),
        reference_perplexity=_number("Mean PPL(base)                :", output),
    )


def _run(model: Path, base: Path, *arguments: object) -> str:
    options = ("--ctx-size", WINDOW, "--threads", devices.physical_threads().count)
    tool = peers.llama_cpp() / "llama-perplexity"
    return peers.run(tool, "--model", model, "--kl-divergence-base", base, *options, *arguments)


def _number(label: str, output: str) -> float:
    found = re.search(re.escape(label) + r"\s*(-?[\d.]+)", output)
    if not found:
        raise SystemExit(f"llama-perplexity said no '{label}':\n{output[-2000:]}")
    return float(found[1])
