"""Rounding: which code each weight takes, and the scale it is a multiple of.

`nearest` needs the weights only. `gptq` also knows what the matrix multiplies: it rounds one column after
another and moves the error of each to the columns that come later, where it does the least to the products.
After GPTQ (Frantar et al., 2022, arXiv:2210.17323), with scales searched for as llama.cpp does.
"""

from __future__ import annotations

from dataclasses import dataclass
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

    def codes(self, blocks: FloatArray, bits: int, axis: int = -1) -> Codes:
        """Nearest codes of blocks; a scale of zero belongs to weights of zero."""
        scaled = blocks * np.expand_dims(self.inverses, axis)
        scaled += np.expand_dims(self.middles, axis)
        return np.clip(scaled, 0, (1 << bits) - 1, out=scaled).astype(np.uint8)

    @cached_property
    def inverses(self) -> FloatArray:
        """Of the scales; 0 where there is none."""
        usable = np.abs(self.scales) > TINY_SCALE
        inverses: FloatArray = np.where(usable, 1 / np.where(usable, self.scales, 1), 0).astype(np.float32)
        return inverses

    @cached_property
    def middles(self) -> FloatArray:
        """Zero points and a half: truncation then rounds half up."""
        return self.zeros + np.float32(0.5)

    def values(self, codes: Codes, axis: int = -1) -> FloatArray:
        """The weights that codes of blocks stand for."""
        values: FloatArray = np.subtract(codes, np.expand_dims(self.zeros, axis), dtype=np.float32)
        values *= np.expand_dims(self.scales, axis)
        return values

    def squared_error(self, blocks: FloatArray, bits: int, work: FloatArray, axis: int = -1) -> FloatArray:
        """What rounding loses of each block, summed up; computed in `work`, as large as `blocks`."""
        scales, zeros = np.expand_dims(self.scales, axis), np.expand_dims(self.zeros, axis)
        np.multiply(blocks, np.expand_dims(self.inverses, axis), out=work)
        np.rint(work, out=work)
        np.maximum(work, -zeros, out=work)
        np.minimum(work, (1 << bits) - 1 - zeros, out=work)
        work *= scales
        work -= blocks
        squares: FloatArray = np.square(work, out=work).sum(axis)
        return squares


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
    return Rounded(grid.codes(blocks, bits).reshape(rows.shape), grid)


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
        self._steps = np.empty_like(self._weights[0])
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
        grid = Grid(np.stack(scales, axis=1), np.stack(zeros, axis=1))
        return Rounded(np.ascontiguousarray(self._codes.T), grid)

    def _round(self, column: int, stop: int) -> None:
        """One column; its error is passed on to those before `stop`.

        As Grid does it, in place: a few rows take less time than NumPy's calls.
        """
        if column % self._block_size == 0:
            self._open_block(column)
        grid, factor, steps = self._grids[-1], self._factor, self._steps
        weights, error = self._weights[column], self._errors[column]
        np.multiply(weights, grid.inverses, out=steps)
        steps += grid.middles
        np.maximum(steps, 0, out=steps)
        np.minimum(steps, (1 << self._bits) - 1, out=steps)
        np.floor(steps, out=steps)
        self._codes[column] = steps
        steps -= grid.zeros
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
        return Grid(scales, np.full_like(scales, 128))
    best, least, work = Grid(low, low), np.full(low.shape, np.inf, np.float32), np.empty_like(blocks)
    for share in RANGE_SHARES:
        scales = np.maximum((high - low) * (share / top), TINY_SCALE)
        grid = Grid(scales, np.clip(np.round(-low * share / scales), 0, top))
        error = grid.squared_error(blocks, bits, work, axis)
        better = error < least
        best = Grid(np.where(better, grid.scales, best.scales), np.where(better, grid.zeros, best.zeros))
        least = np.where(better, error, least)
    return best
