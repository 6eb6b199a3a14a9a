"""Rounding: which code each weight takes, and the scale it is a multiple of.

`nearest` needs the weights only. `gptq` also knows what the matrix multiplies: it rounds one column after
another and moves the error of each to the columns that come later, where it does the least to the products.
After GPTQ (Frantar et al., 2022, arXiv:2210.17323), with scales searched for as llama.cpp does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .checkpoint import FloatArray

Codes = npt.NDArray[np.uint8]
DAMPING = 0.01  # of the mean diagonal: keeps the inverse stable where calibration saw little
LAZY_COLUMNS = 32  # columns whose errors are passed on together: fits the cache
RANGE_SHARES = np.linspace(0.65, 1.0, 15, dtype=np.float32)  # of a block's whole range, to be tried
TINY_SCALE = np.float32(1e-30)


@dataclass(frozen=True)
class Grid:
    """Scale and zero point of each block, (rows, blocks): a code stands for (code - zero) · scale."""

    scales: FloatArray
    zeros: FloatArray

    def codes(self, blocks: FloatArray, bits: int) -> Codes:
        """Nearest codes of blocks (rows, blocks, block_size); a scale of zero belongs to weights of zero."""
        usable = np.abs(self.scales) > TINY_SCALE
        inverse = np.where(usable, 1 / np.where(usable, self.scales, 1), 0).astype(np.float32)
        scaled = blocks * inverse[..., None]
        scaled += (self.zeros + np.float32(0.5))[..., None]  # truncation below then rounds half up
        return np.clip(scaled, 0, (1 << bits) - 1, out=scaled).astype(np.uint8)

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
    rows = rows.copy()
    columns = rows.shape[1]
    codes, grids = np.empty(rows.shape, np.uint8), []
    for start in range(0, columns, LAZY_COLUMNS):
        stop = min(start + LAZY_COLUMNS, columns)
        part, errors = rows[:, start:stop].copy(), np.empty((len(rows), stop - start), np.float32)
        for i in range(stop - start):
            column = start + i
            if column % block_size == 0:
                rows[:, column:stop] = part[:, i:]  # a block may reach beyond this part
                grids.append(block_grid(rows[:, None, column : column + block_size], bits))
            code = grids[-1].codes(part[:, None, i, None], bits)
            codes[:, column] = code[:, 0, 0]
            lost = part[:, i] - grids[-1].values(code)[:, 0, 0]
            errors[:, i] = lost / factor[column, column]
            part[:, i + 1 :] -= errors[:, i, None] * factor[column, column + 1 : stop]
        rows[:, stop:] -= errors @ factor[start:stop, stop:]
    scales, zeros = ([getattr(grid, name) for grid in grids] for name in ("scales", "zeros"))
    return Rounded(codes, Grid(np.concatenate(scales, axis=1), np.concatenate(zeros, axis=1)))


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
