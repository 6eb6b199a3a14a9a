"""Rotation: orthogonal matrices that are cheap to multiply by, of any size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

SEED = 20  # any: seeds differ by a few per cent of divergence
LARGEST_FACTOR = 64
MOST_ACROSS = 32


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


@dataclass(frozen=True)
class BlockRotation:
    """What a graph does to an input at run time: each block of `size` channels times a Hadamard matrix, and
    then a Hartley matrix across each `across` neighbouring blocks.

    Both are their own inverse, and work on different axes: done twice, all is as before.
    """

    size: int
    across: int = 1

    def __call__(self, x: FloatArray) -> FloatArray:
        """x (..., channels), rotated."""
        blocks = x.reshape(-1, self.across, self.size) @ hadamard(self.size)
        if self.across > 1:
            blocks = hartley(self.across) @ blocks
        return blocks.reshape(x.shape)


def across(blocks: int) -> int:
    """How many neighbouring blocks a graph can mix cheaply: the most up to 32 that divide all of them."""
    return next(count for count in range(min(blocks, MOST_ACROSS), 0, -1) if blocks % count == 0)


def hartley(size: int) -> FloatArray:
    """The matrix of the discrete Hartley transform, scaled to be orthogonal; symmetric, of any size.

    No number of it is larger than sqrt(2 / size): what one block holds alone is spread over all.
    """
    angles = 2 * np.pi * np.outer(np.arange(size), np.arange(size)) / size
    matrix: FloatArray = ((np.cos(angles) + np.sin(angles)) / np.sqrt(size)).astype(np.float32)
    return matrix


def hadamard(size: int) -> FloatArray:
    """Sylvester's Hadamard matrix, scaled to be orthogonal; `size` is a power of two."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.float32(np.sqrt(size))


def _orthogonal(size: int, rng: np.random.Generator) -> FloatArray:
    q, _ = np.linalg.qr(rng.standard_normal((size, size)))
    return q.astype(np.float32)
