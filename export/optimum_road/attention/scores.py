"""Scores: what lies between the product of queries with keys and its Softmax, found from numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .probe import Array

SATURATED = 0.9
CLOSE = 2e-4  # of the largest; fp32 in another order is off by 1e-6


@dataclass(frozen=True)
class Scores:
    """`scale` of query · key; `softcap`, 0 for none; `slopes` (heads,): ALiBi's, times the key's position."""

    scale: float
    softcap: float = 0.0
    slopes: tuple[float, ...] = ()

    def is_like(self, other: Scores) -> bool:
        """Whether both are the same but for rounding."""
        one, two = ((each.scale, each.softcap, *each.slopes) for each in (self, other))
        return len(one) == len(two) and np.allclose(one, two, rtol=10 * CLOSE, atol=0)


def fit_scores(product: Array, scores: Array, seen: Array, tanh: Array | None) -> Scores | None:
    """What makes `scores` of `product`, (heads, tokens, total) each, where `seen`; None for something else.

    `tanh`: what a Tanh on the way gives, for soft caps.
    """
    if tanh is None:
        return _linear(product, scores, seen)
    cap = ratio(tanh[seen], scores[seen])
    small = seen & (np.abs(tanh) < SATURATED)  # beyond, fp32 can't tell what the product was
    scale = ratio(product[small], cap * np.arctanh(np.float64(tanh[small]))) if cap else None
    return Scores(round_off(scale), round_off(cap)) if cap and scale else None


def fit_window(seen: Array, past: int) -> int | str:
    """How many tokens each one sees, itself included, 0 for all before it; or what mask it is instead.

    `seen` (heads, tokens, total): what isn't masked.
    """
    _, tokens, total = seen.shape
    if not (seen == seen[:1]).all():
        return "its heads see different tokens"
    firsts, ends = seen[0].argmax(axis=1), past + np.arange(1, tokens + 1)
    columns = np.arange(total)
    if not (seen[0] == ((columns >= firsts[:, None]) & (columns < ends[:, None]))).all():
        return "its mask isn't causal"
    windows = set((ends - firsts).tolist())
    if firsts.any() and len(windows) > 1:
        return "its window changes along the text"
    return windows.pop() if firsts.any() else 0


def ratio(x: Array, y: Array) -> float | None:
    """The number that x is multiplied by to give y; None if there is none."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    square = float((x * x).sum())
    found = float((x * y).sum()) / square if square else 0.0
    return found if found and np.abs(x * found - y).max() <= CLOSE * np.abs(y).max() else None


def _linear(product: Array, scores: Array, seen: Array) -> Scores | None:
    """scores = scale · product + slope · position of the key + what is the same for all of a row.

    Slopes only where nothing else explains the scores.
    """
    columns = np.broadcast_to(np.arange(product.shape[-1]), product.shape)
    x, j, y = (_centred(array, seen) for array in (product, columns, scores))
    scales = _fitted([x], y, seen)
    slopes: tuple[float, ...] = ()
    if scales is None:
        both = _fitted([x, j], y, seen)
        if both is None:
            return None
        scales, slopes = both[:, :1], tuple(map(round_off, both[:, 1]))
    if np.ptp(scales) > CLOSE * np.abs(scales).max():
        return None
    return Scores(round_off(scales.mean()), slopes=slopes)


def _fitted(terms: list[Array], y: Array, seen: Array) -> Array | None:
    """Factors (heads, terms) that make y of the terms' sum; None if none do."""
    found = []
    for head, mask in enumerate(seen):
        columns = np.stack([term[head][mask] for term in terms], axis=1)
        wanted = y[head][mask]
        factors = np.linalg.lstsq(columns, wanted, rcond=None)[0]
        if np.abs(columns @ factors - wanted).max() > CLOSE * np.abs(wanted).max():
            return None
        found.append(factors)
    return np.array(found)


def _centred(array: Array, seen: Array) -> Array:
    """Less the mean of each row over what is seen: Softmax doesn't tell the difference."""
    kept = np.where(seen, array, 0).astype(np.float64)
    mean = kept.sum(axis=-1, keepdims=True) / seen.sum(axis=-1, keepdims=True)
    centred: Array = np.where(seen, kept - mean, 0)
    return centred


def round_off(number: float) -> float:
    """What fp32 measured, so that all layers have it alike: 0.25, not 0.24999999926."""
    return float(f"{number:.6g}")


def equal(x: Array, y: Array) -> bool:
    """Whether two arrays are the same but for rounding."""
    if x.shape != y.shape:
        return False
    return not x.size or bool(np.abs(x - y).max() <= CLOSE * np.abs(y).max())
