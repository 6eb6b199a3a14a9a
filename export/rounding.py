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
DAMPING = 0.01  # of the mean diagonal: keeps the inverse stable where calibration saw little
SINGLE_COLUMNS = 16  # that pass their errors on one by one
RANGE_SHARES = np.linspace(0.65, 1.0, 15, dtype=np.float32)  # of a block's whole range, to be tried
TINY_SCALE = np.float32(1e-30)


@dataclass(frozen=True)
class Grid:
    """Scale and zero point of each block, (rows, blocks): a code stands for (code - zero) · scale."""

    scales: FloatArray
    zeros: FloatArray

    def codes(self, blocks: FloatArray, bits: int) -> Codes:
        """Nearest codes of blocks (rows, blocks, block_size); a scale of zero belongs to weights of zero."""
        scaled = blocks * self._inverses
        scaled += self._middles
        return np.clip(scaled, 0, (1 << bits) - 1, out=scaled).astype(np.uint8)

    @cached_property
    def _inverses(self) -> FloatArray:
        usable = np.abs(self.scales) > TINY_SCALE
        inverses: FloatArray = np.where(usable, 1 / np.where(usable, self.scales, 1), 0).astype(np.float32)
        return inverses[..., None]

    @cached_property
    def _middles(self) -> FloatArray:
        """Zero points and a half: truncation then rounds half up."""
        return (self.zeros + np.float32(0.5))[..., None]

    def values(self, codes: Codes) -> FloatArray:
        """The weights that codes (rows, blocks, block_size) stand for."""
        return (codes - self.zeros[..., None]) * self.scales[..., None]


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
    """As `nearest`, each column's error made good by later ones; `factor` is of `inverse_factor`."""
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
        self._grids: list[Grid] = []

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
        grid = Grid(np.concatenate(scales, axis=1), np.concatenate(zeros, axis=1))
        return Rounded(np.ascontiguousarray(self._codes.T), grid)

    def _round(self, column: int, stop: int) -> None:
        """One column; its error is passed on to those before `stop`."""
        weights, error, factor = self._weights[column], self._errors[column], self._factor[column]
        if column % self._block_size == 0:
            block = self._weights[column : column + self._block_size]
            self._grids.append(block_grid(block.T.copy()[:, None], self._bits))
        grid = self._grids[-1]
        codes = grid.codes(weights[:, None, None], self._bits)
        self._codes[column] = codes[:, 0, 0]
        np.subtract(weights, grid.values(codes)[:, 0, 0], out=error)
        error /= factor[column]
        self._weights[column + 1 : stop] -= factor[column + 1 : stop, None] * error


def inverse_factor(hessian: FloatArray, damping: float = DAMPING) -> FloatArray:
    """Upper Cholesky factor U of the inverse of a matrix Σ xᵀx (columns, columns), damped: H⁻¹ = Uᵀ · U."""
    size = len(hessian)
    damped = hessian[::-1, ::-1].astype(np.float64)
    damped[np.diag_indices(size)] += damping * np.trace(hessian, dtype=np.float64) / size + TINY_SCALE
    # In reversed order the Cholesky factor is upper triangular, and its inverse is what is wanted.
    upper = np.linalg.cholesky(damped)[::-1, ::-1].astype(np.float32)
    del damped  # half a gigabyte at the R1 shape
    return _inverse(upper)


def _inverse(upper: FloatArray) -> FloatArray:
    """Of an upper triangular matrix, by halves: a sixth of the work of a general inverse."""
    size = len(upper)
    if size <= 128:
        return np.triu(np.linalg.inv(upper.astype(np.float64))).astype(np.float32)
    half = size // 2
    result = np.zeros_like(upper)
    result[:half, :half] = _inverse(upper[:half, :half])
    result[half:, half:] = _inverse(upper[half:, half:])
    result[:half, half:] = -(result[:half, :half] @ upper[:half, half:]) @ result[half:, half:]
    return result


def block_grid(blocks: FloatArray, bits: int) -> Grid:
    """The grid of blocks (rows, blocks, block_size).

    8 bits are symmetric and reach the largest weight exactly. Fewer bits span from the smallest to the
    largest weight and zero, with a whole zero point, and try narrower ranges that clip the ends.
    """
    top = np.float32((1 << bits) - 1)
    low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    if bits == 8:
        scales = np.maximum(high, -low) / np.float32(127)
        return Grid(scales, np.full_like(scales, 128))
    best, least = Grid(low, low), np.full(low.shape, np.inf, np.float32)
    for share in RANGE_SHARES:
        scales = np.maximum((high - low) * (share / top), TINY_SCALE)
        grid = Grid(scales, np.clip(np.round(-low * share / scales), 0, top))
        error = ((grid.values(grid.codes(blocks, bits)) - blocks) ** 2).sum(-1)
        better = error < least
        best = Grid(np.where(better, grid.scales, best.scales), np.where(better, grid.zeros, best.zeros))
        least = np.where(better, error, least)
    return best
