"""Rotary: whether queries and keys are rotated, and by which tables; found from numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from .probe import Array
from .scores import equal, ratio, round_off

STEP = 8  # GroupQueryAttention takes tables whose columns are a multiple of it


@dataclass(frozen=True)
class Table:
    """Values with cosines and sines, and how to read them: `take` of the columns, times `factor`.

    `interleaved`: pairs that are rotated are neighbours, not halves of what is rotated.
    """

    cos: str
    sin: str
    take: range
    interleaved: bool
    factor: float = 1.0

    def read(self, values: Array) -> Array:
        """Cosines or sines as (tokens, frequencies)."""
        read: Array = self.factor * values.reshape(-1, values.shape[-1])[:, list(self.take)].astype(
            np.float64
        )
        return read


def readings(cos: str, sin: str, width: int) -> Iterator[Table]:
    """Ways to read `width` columns: each frequency twice side by side, twice in turn, or once.

    None if GroupQueryAttention doesn't take them.
    """
    for interleaved in (False, True):
        for take in (range(width // 2), range(0, width, 2), range(width)):
            if len(take) % STEP == 0:
                yield Table(cos, sin, take, interleaved)


def fit_table(table: Table, cos: Array, sin: Array, x: Array, y: Array) -> Table | None:
    """The table, times what it takes to make y of x, (heads, tokens, head_dim); None if it doesn't."""
    turned = rotate(table, cos, sin, x)
    if turned is None:
        return None
    size = 2 * table.read(cos).shape[1]
    factor = ratio(turned[..., :size], y[..., :size])
    if factor is None or not equal(x[..., size:], y[..., size:]):
        return None
    return replace(table, factor=round_off(table.factor * factor))


def fit_rotated(table: Table, cos: Array, sin: Array, x: Array, y: Array) -> float | None:
    """By how much x, once rotated, is multiplied to give y; None if it is something else."""
    turned = rotate(table, cos, sin, x)
    return None if turned is None else ratio(turned, y)


def rotate(table: Table, cos: Array, sin: Array, x: Array) -> Array | None:
    """x (heads, tokens, head_dim), the first numbers of each head rotated (RoFormer, arXiv:2104.09864).

    None if the table is larger than that.
    """
    cos, sin = table.read(cos), table.read(sin)
    size = 2 * cos.shape[1]
    if size > x.shape[-1] or len(cos) != x.shape[1]:
        return None
    part = x[..., :size]
    one, other = (part[..., ::2], part[..., 1::2]) if table.interleaved else np.split(part, 2, axis=-1)
    turned = [one * cos - other * sin, other * cos + one * sin]
    joined = np.concatenate(turned, axis=-1)
    if table.interleaved:
        joined = np.stack(turned, axis=-1).reshape(part.shape)
    return np.concatenate([joined, x[..., size:]], axis=-1)
