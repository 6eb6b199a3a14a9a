"""Rotation: orthogonal matrices that are cheap to multiply by, of any size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .checkpoint import FloatArray

SEED = 20  # any: seeds differ by a few per cent of divergence
LARGEST_FACTOR = 64


@dataclass(frozen=True)
class Rotation:
    """An orthogonal matrix R (size, size): random signs times a Kronecker product of small factors.

    Multiplying by it costs the sum of the factors' sizes a number, not their product. Rows of R are inputs.
    """

    signs: FloatArray
    factors: tuple[FloatArray, ...]

    @property
    def size(self) -> int:
        return len(self.signs)

    def right(self, x: FloatArray) -> FloatArray:
        """x · R for x (..., size)."""
        shape = x.shape
        x = (x * self.signs).reshape(-1, *(len(factor) for factor in self.factors))
        for factor in self.factors:  # each turns the first of the factor axes and puts it last
            x = np.tensordot(x, factor, axes=(1, 0))
        return x.reshape(shape)

    def left(self, x: FloatArray) -> FloatArray:
        """Rᵀ · x for x (size, columns)."""
        return np.ascontiguousarray(self.right(np.ascontiguousarray(x.T)).T)


def random_rotation(size: int, seed: int = SEED) -> Rotation:
    """Hadamard in the powers of two of `size`, a random orthogonal matrix in the odd rest."""
    rng = np.random.default_rng([seed, size])
    odd = size // (size & -size)
    factors = [] if odd == 1 else [_orthogonal(odd, rng)]
    rest = size // odd
    while rest > 1:
        step = min(rest, LARGEST_FACTOR)
        factors.append(hadamard(step))
        rest //= step
    signs = rng.choice(np.array([-1, 1], np.float32), size)
    return Rotation(signs, tuple(factors))


def hadamard(size: int) -> FloatArray:
    """Sylvester's Hadamard matrix, scaled to be orthogonal; `size` is a power of two."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.float32(np.sqrt(size))


def _orthogonal(size: int, rng: np.random.Generator) -> FloatArray:
    q, _ = np.linalg.qr(rng.standard_normal((size, size)))
    return q.astype(np.float32)
