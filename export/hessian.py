"""Hessian: what errors in a matrix's columns do together to its products, Σ xᵀx over what it multiplies.

Rounding reads it as the Cholesky factor of its inverse (GPTQ, Frantar et al., 2022, arXiv:2210.17323).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from .checkpoint import FloatArray
from .rounding import TINY_SCALE

TILE = 1024  # columns of a part that one thread adds to
DAMPING = 0.01  # of the mean diagonal: keeps the inverse stable where calibration saw little
SMALL = 64  # columns of which LAPACK makes the factor


class Hessian:
    """The upper triangle of Σ xᵀx, in tiles; what lies below it means nothing."""

    def __init__(self, columns: int) -> None:
        self.sums: FloatArray = np.zeros((columns, columns), np.float32)

    def adding(self, x: FloatArray) -> Iterator[Callable[[], None]]:
        """What adds x (n, columns), in parts that any threads may do."""
        for top in range(0, len(self.sums), TILE):
            for left in range(top, len(self.sums), TILE):
                yield partial(self._add, x, slice(top, top + TILE), slice(left, left + TILE))

    def _add(self, x: FloatArray, rows: slice, columns: slice) -> None:
        self.sums[rows, columns] += x[:, rows].T @ x[:, columns]


def inverse_factor(hessian: FloatArray, damping: float = DAMPING) -> FloatArray:
    """Upper Cholesky factor U of the inverse of a Hessian (columns, columns), damped: H⁻¹ = Uᵀ · U.

    Only its upper triangle is read. Raises LinAlgError.
    """
    size = len(hessian)
    # In reversed order the Cholesky factor is upper triangular, and its inverse is what is wanted.
    work = hessian[::-1, ::-1].copy()
    work[np.diag_indices(size)] += damping * np.trace(hessian, dtype=np.float64) / size + TINY_SCALE
    _invert_cholesky(work)
    return np.ascontiguousarray(work[::-1, ::-1])


def _invert_cholesky(a: FloatArray) -> None:
    """A symmetric matrix, of which the lower triangle is read, becomes the inverse of its Cholesky factor.

    In place and by halves: almost all is large products, three times as quick as LAPACK's two steps.
    Raises LinAlgError.
    """
    size = len(a)
    if size <= SMALL:
        a[...] = np.tril(np.linalg.inv(np.linalg.cholesky(a.astype(np.float64))))
        return
    half = size // 2
    top, bottom = a[:half, :half], a[half:, half:]
    _invert_cholesky(top)
    left = a[half:, :half] @ top.T
    bottom -= left @ left.T
    _invert_cholesky(bottom)
    a[half:, :half] = -(bottom @ left) @ top
    a[:half, half:] = 0
