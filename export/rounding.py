"""Rounding: which code each weight takes, and the scale it is a multiple of.

`nearest` needs the weights only. `gptq` also knows what the matrix multiplies: it rounds one column after
another and moves the error of each to the columns that come later, where it does the least to the products.
After GPTQ (Frantar et al., 2022, arXiv:2210.17323), with scales searched for as llama.cpp does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .checkpoint import FloatArray

Codes = npt.NDArray[np.uint8]
SINGLE_COLUMNS = 16  # that pass their errors on one by one
RANGE_SHARES = np.linspace(0.65, 1.0, 15, dtype=np.float32)  # of a block's whole range, to be tried
TINY_SCALE = np.float32(1e-30)


@dataclass(frozen=True)
class Grid:
    """Scale and zero point of each block, (rows, blocks): a code stands for (code - zero) · scale.

    The weights of a block lie along one `axis` more, (rows, blocks, block_size) unless it says otherwise.
    """

    scales: FloatArray
    zeros: FloatArray
    bits: int

    def codes(self, blocks: FloatArray) -> Codes:
        """Nearest codes of blocks."""
        steps = self.steps(blocks, np.empty_like(blocks))
        steps += self.zeros[..., None]
        return steps.astype(np.uint8)

    def values(self, codes: Codes) -> FloatArray:
        """The weights that codes of blocks stand for."""
        return (codes - self.zeros[..., None]) * self.scales[..., None]

    def steps(self, blocks: FloatArray, out: FloatArray, axis: int = -1) -> FloatArray:
        """The nearest whole numbers of steps away from the zero point, computed in `out`. A scale of zero
        belongs to weights of zero.
        """
        np.multiply(blocks, np.expand_dims(self._inverses, axis), out=out)
        np.rint(out, out=out)
        np.maximum(out, np.expand_dims(self._lowest, axis), out=out)
        return np.minimum(out, np.expand_dims(self._highest, axis), out=out)

    def squared_error(self, blocks: FloatArray, work: FloatArray, axis: int = -1) -> FloatArray:
        """What rounding loses of each block, summed up; computed in `work`, as large as `blocks`."""
        self.steps(blocks, work, axis)
        work *= np.expand_dims(self.scales, axis)
        work -= blocks
        squares: FloatArray = np.square(work, out=work).sum(axis)
        return squares

    @cached_property
    def _inverses(self) -> FloatArray:
        usable = np.abs(self.scales) > TINY_SCALE
        inverses: FloatArray = np.where(usable, 1 / np.where(usable, self.scales, 1), 0).astype(np.float32)
        return inverses

    @cached_property
    def _lowest(self) -> FloatArray:
        return -self.zeros

    @cached_property
    def _highest(self) -> FloatArray:
        return np.float32((1 << self.bits) - 1) - self.zeros


@dataclass(frozen=True)
class Rounded:
    """Codes (rows, columns) on a grid."""

    codes: Codes
    grid: Grid

    def values(self) -> FloatArray:
        """The weights that the codes stand for, (rows, columns)."""
        blocks = self.codes.reshape(*self.grid.scales.shape, -1)
        return self.grid.values(blocks).reshape(self.codes.shape)


def nearest(rows: FloatArray, block_size: int, bits: int) -> Rounded:
    """Every weight to the nearest step. `block_size` divides the columns."""
    blocks = rows.reshape(len(rows), -1, block_size)
    grid = block_grid(blocks, bits)
    return Rounded(grid.codes(blocks).reshape(rows.shape), grid)


def gptq(rows: FloatArray, block_size: int, bits: int, factor: FloatArray) -> Rounded:
    """As `nearest`, each column's error made good by later ones; `factor` is of `hessian.inverse_factor`."""
    work = _Columns(rows, block_size, bits, factor)
    work.round(0, rows.shape[1])
    return work.rounded


class _Columns:
    """Rows while gptq rounds them, turned around: what lies side by side is worked on together."""

    def __init__(self, rows: FloatArray, block_size: int, bits: int, factor: FloatArray) -> None:
        self._weights = rows.T.copy()
        self._block_size, self._bits, self._factor = block_size, bits, factor
        self._codes = np.empty(self._weights.shape, np.uint8)
        self._errors = np.empty_like(self._weights)
        self._grids: list[Grid] = []  # of so many blocks side by side, (rows,)
        self._steps = np.empty_like(self._weights[:1])
        self._passed = np.empty_like(self._weights[:SINGLE_COLUMNS])

    def round(self, start: int, stop: int) -> None:
        """Columns from `start` on. Halves pass errors on by one product, which is quickest if it is large."""
        if stop - start <= SINGLE_COLUMNS:
            for column in range(start, stop):
                self._round(column, stop)
            return
        unit = self._block_size if stop - start > self._block_size else 1  # a block's grid is made at once
        middle = start + max(1, (stop - start) // 2 // unit) * unit
        self.round(start, middle)
        self._weights[middle:stop] -= self._factor[start:middle, middle:stop].T @ self._errors[start:middle]
        self.round(middle, stop)

    @property
    def rounded(self) -> Rounded:
        """All of them."""
        scales, zeros = ([getattr(grid, name) for grid in self._grids] for name in ("scales", "zeros"))
        grid = Grid(np.stack(scales, axis=1), np.stack(zeros, axis=1), self._bits)
        return Rounded(np.ascontiguousarray(self._codes.T), grid)

    def _round(self, column: int, stop: int) -> None:
        """One column; its error is passed on to those before `stop`. In place: NumPy's calls take longer than
        what they do.
        """
        if column % self._block_size == 0:
            self._open_block(column)
        grid, factor, steps = self._grids[-1], self._factor, self._steps
        weights, error = self._weights[column : column + 1], self._errors[column : column + 1]
        grid.steps(weights, steps, axis=0)
        np.add(steps, grid.zeros, out=error)
        self._codes[column] = error[0]
        steps *= grid.scales
        np.subtract(weights, steps, out=error)
        error /= factor[column, column]
        passed = self._passed[: stop - column - 1]
        np.multiply(factor[column, column + 1 : stop, None], error, out=passed)
        self._weights[column + 1 : stop] -= passed

    def _open_block(self, column: int) -> None:
        """Make the grid of the block that begins here."""
        block = self._weights[column : column + self._block_size]
        self._grids.append(block_grid(block, self._bits, axis=0))


def block_grid(blocks: FloatArray, bits: int, axis: int = -1) -> Grid:
    """The grid of blocks, whose weights lie along `axis`.

    8 bits are symmetric and reach the largest weight exactly. Fewer bits span from the smallest to the
    largest weight and zero, with a whole zero point, and try narrower ranges that clip the ends.
    """
    top = np.float32((1 << bits) - 1)
    low, high = np.minimum(blocks.min(axis), 0), np.maximum(blocks.max(axis), 0)
    if bits == 8:
        scales = np.maximum(high, -low) / np.float32(127)
        return Grid(scales, np.full_like(scales, 128), bits)
    best, least, work = Grid(low, low, bits), np.full(low.shape, np.inf, np.float32), np.empty_like(blocks)
    for share in RANGE_SHARES:
        scales = np.maximum((high - low) * (share / top), TINY_SCALE)
        grid = Grid(scales, np.clip(np.round(-low * share / scales), 0, top), bits)
        error = grid.squared_error(blocks, work, axis)
        better = error < least
        best = replace(
            grid,
            scales=np.where(better, grid.scales, best.scales),
            zeros=np.where(better, grid.zeros, best.zeros),
        )
        least = np.where(better, error, least)
    return best
