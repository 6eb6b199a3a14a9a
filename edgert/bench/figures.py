"""Figures: what a bench of a bundle on this machine gave: medians and ranges, and every round's own."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """What several runs gave: their median, the range, and each."""

    median: float
    lowest: float
    highest: float
    rounds: tuple[float, ...]


def figure(values: Sequence[float]) -> Figure:
    """Of at least one run."""
    return Figure(statistics.median(values), min(values), max(values), tuple(values))


@dataclass(frozen=True)
class AtDepth:
    """Decoding after so many tokens.

    `decode`: tokens per second. `step_bytes`: what a step must read, weights as stored, and keys and values
    halfway through the steps. `reached`: that in GB/s, `share` of what memory gave in the same round; above 1
    the caches hold part of it. `joules` per token, None where the machine does not tell.
    """

    depth: int
    decode: Figure
    step_bytes: int
    reached: Figure
    share: Figure
    joules: Figure | None


@dataclass(frozen=True)
class Memory:
    """Bytes of a process that loaded the bundle and read the prompt: of its own, of files, and its peak."""

    anonymous: Figure
    files: Figure
    peak: Figure


@dataclass(frozen=True)
class Drawing:
    """Choosing a token, as a share of the step at the first depth: the likeliest; and at temperature 0.6,
    top-p 0.95.
    """

    greedy: Figure
    sampled: Figure


@dataclass(frozen=True)
class PeerAtDepth:
    """A peer's tokens per second, and how many times as fast edgert was in the same round."""

    depth: int
    decode: Figure
    ratio: Figure


@dataclass(frozen=True)
class Against:
    """What a peer reached: tokens per second, and edgert's ratios to it, round by round."""

    name: str
    path: str
    prefill: Figure
    prefill_ratio: Figure
    depths: tuple[PeerAtDepth, ...]


@dataclass(frozen=True)
class Point:
    """Milliseconds that a step takes at a depth: the median of a few."""

    depth: float
    milliseconds: float


@dataclass(frozen=True)
class Curve:
    """Steps of one growing session, and the straight line through them: `start` in milliseconds, `slope` in
    milliseconds per 1,000 tokens, and `r2`, how much of the differences it explains.
    """

    points: tuple[Point, ...]
    start: float
    slope: float
    r2: float


@dataclass(frozen=True)
class Bench:
    """Everything that was measured. `load` and `first_token` are in seconds, `prefill` in tokens per second,
    `bandwidth` in GB/s that this machine reads; `skipped` are depths that the context can't hold. `memory`
    is None where the system does not tell, `no_energy` says why there are no joules.
    """

    bundle: str
    device: str
    graph: str
    threads: int
    context: int
    prompt: int
    steps: int
    load: Figure
    prefill: Figure
    first_token: Figure
    depths: tuple[AtDepth, ...]
    bandwidth: Figure
    memory: Memory | None
    drawing: Drawing
    no_energy: str
    skipped: tuple[int, ...] = ()
    against: tuple[Against, ...] = ()
    curve: Curve | None = None
