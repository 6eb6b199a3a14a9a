"""Rotation: orthogonal matrices that are cheap to multiply by, of any size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

SEED = 20  # any: seeds differ by a few per cent of divergence
LARGEST_INNER = 64
MOST_ACROSS = 32


@dataclass(frozen=True)
class Rotation:
    """An orthogonal matrix R (size, size): random signs times the Kronecker product of `outer` and `inner`.

    Multiplying by it costs the sum of their sizes a number, not their product. Rows of R are inputs.
    """

    signs: FloatArray
    outer: FloatArray
    inner: FloatArray

    @property
    def size(self) -> int:
        return len(self.signs)

    def right(self, x: FloatArray) -> FloatArray:
        """x · R for x (..., size)."""
        signed: FloatArray = x * self.signs
        turned = signed.reshape(-1, len(self.inner)) @ self.inner
        if len(self.outer) > 1:
            turned = self.outer.T @ turned.reshape(-1, len(self.outer), len(self.inner))
        return turned.reshape(x.shape)

    def left(self, x: FloatArray) -> FloatArray:
        """Rᵀ · x for x (size, columns)."""
        turned: FloatArray = (x * self.signs[:, None]).reshape(len(self.outer), -1)
        if len(self.outer) > 1:
            turned = self.outer.T @ turned
        return (self.inner.T @ turned.reshape(len(self.outer), len(self.inner), -1)).reshape(x.shape)


def random_rotation(size: int, seed: int = SEED) -> Rotation:
    """Hadamard in the powers of two of `size`, a random orthogonal matrix in the odd rest."""
    rng = np.random.default_rng([seed, size])
    power = size & -size
    odd, inner = size // power, min(power, LARGEST_INNER)
    outer = np.kron(_orthogonal(odd, rng), hadamard(power // inner))
    signs = rng.choice(np.array([-1, 1], np.float32), size)
    return Rotation(signs, outer, hadamard(inner))


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
    if size == 1:
        return np.ones((1, 1), np.float32)
    q, _ = np.linalg.qr(rng.standard_normal((size, size)))
    return q.astype(np.float32)
