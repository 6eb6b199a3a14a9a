"""Rotary position embedding: every scaling dialect reduced to one divisor per frequency.

A rotated pair i of a head turns by `position / (theta ** (2 i / dim) * divisor[i])`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Rope:
    """`dim`: how many of each head's dimensions rotate. Empty divisors mean ones.

    LongRoPE models carry a second set for contexts longer than `original_context`; which one applies is
    decided once, by the longest context the bundle is exported for. (transformers decides by the length of
    each input, llama.cpp by the context it is started with.)
    """

    theta: float
    dim: int
    divisors: tuple[float, ...] = ()
    long_divisors: tuple[float, ...] = ()
    original_context: int = 0
    attention_factor: float = 1.0

    def settled(self, max_context: int) -> Rope:
        """The same with one set of divisors, that of a context, whatever is asked of it later."""
        long = self.long_divisors and max_context > self.original_context
        return replace(self, divisors=self.long_divisors if long else self.divisors, long_divisors=())

    def tables(self, max_context: int) -> tuple[FloatArray, FloatArray]:
        """Cosines and sines, float32 (max_context, dim / 2) each."""
        divisors = np.asarray(self.settled(max_context).divisors or 1.0, np.float64)
        frequencies = base_frequencies(self.theta, self.dim) / divisors
        angles = np.outer(np.arange(max_context, dtype=np.float64), frequencies)
        factor = self.attention_factor
        return (np.cos(angles) * factor).astype(np.float32), (np.sin(angles) * factor).astype(np.float32)


def base_frequencies(theta: float, dim: int) -> npt.NDArray[np.float64]:
    """Unscaled inverse frequencies, (dim / 2,)."""
    return 1.0 / theta ** (np.arange(0, dim, 2, dtype=np.float64) / dim)


def from_config(theta: float, dim: int, scaling: Mapping[str, Any] | None, max_context: int) -> Rope:
    """Rope of a Hugging Face `rope_scaling` (or `rope_parameters`) table. Raises ValueError."""
    scaling = scaling or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in _DIALECTS:
        raise ValueError(f"rope scaling '{kind}' is not supported (known: {', '.join(_DIALECTS)})")
    return _DIALECTS[kind](theta, dim, scaling, max_context)


def _default(theta: float, dim: int, _scaling: Mapping[str, Any], _max_context: int) -> Rope:
    return Rope(theta, dim)


def _linear(theta: float, dim: int, scaling: Mapping[str, Any], _max_context: int) -> Rope:
    return Rope(theta, dim, (float(scaling["factor"]),) * (dim // 2))


def _llama3(theta: float, dim: int, scaling: Mapping[str, Any], _max_context: int) -> Rope:
    """Llama 3.1: long wavelengths are divided by `factor`, short ones kept, a ramp in between."""
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    original = int(scaling["original_max_position_embeddings"])
    turns = original * base_frequencies(theta, dim) / (2 * math.pi)  # full turns within that context
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return Rope(theta, dim, _interpolated(keep, float(scaling["factor"])))


def _yarn(theta: float, dim: int, scaling: Mapping[str, Any], max_context: int) -> Rope:
    """YaRN (arXiv:2309.00071): a linear ramp over the pair's index, logits scaled by the factor's log."""
    original = int(scaling.get("original_max_position_embeddings") or max_context)
    factor = float(scaling.get("factor") or max_context / original)

    def pair_turning(turns: float) -> float:
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair_turning(float(scaling.get("beta_fast") or 32))), 0)
    high = min(math.ceil(pair_turning(float(scaling.get("beta_slow") or 1))), dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 0.001), 0.0, 1.0)
    usual = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    # `attn_factor`, of vLLM and llama.cpp, multiplies; R1-0528-Qwen3-8B undoes the usual factor by it.
    attention = scaling.get("attention_factor") or usual * float(scaling.get("attn_factor") or 1.0)
    return Rope(theta, dim, _interpolated(1.0 - ramp, factor), attention_factor=float(attention))


def _longrope(theta: float, dim: int, scaling: Mapping[str, Any], max_context: int) -> Rope:
    """LongRoPE (arXiv:2402.13753) as Phi-3 uses it."""
    original = int(scaling.get("original_max_position_embeddings") or max_context)
    factor = float(scaling.get("factor") or max_context / original)
    attention = scaling.get("attention_factor")
    if attention is None:
        attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    short, long = tuple(map(float, scaling["short_factor"])), tuple(map(float, scaling["long_factor"]))
    for name, factors in (("short_factor", short), ("long_factor", long)):
        if len(factors) != dim // 2:
            raise ValueError(f"rope {name} has {len(factors)} entries, the heads rotate {dim // 2} pairs")
    return Rope(theta, dim, short, long, original, float(attention))


def _interpolated(keep: npt.NDArray[np.float64], factor: float) -> tuple[float, ...]:
    """Divisors of frequencies that are kept by `keep` and divided by `factor` for the rest."""
    return tuple((1.0 / (keep + (1.0 - keep) / factor)).tolist())


_DIALECTS = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,
}
