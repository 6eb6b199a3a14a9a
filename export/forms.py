"""Storage forms: how a matrix is laid out on disk and which operators read it there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgert.bundle import Quantization
from edgert.devices import MATRICES, MatMulForm

from .checkpoint import FloatArray
from .graph import MICROSOFT

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Piece:
    """One array of a stored matrix, e.g. the codes or the scales; the shape is that of a Linear's input."""

    name: str
    dtype: ir.DataType
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """The operator that reads a matrix; `bias_input`: where the bias goes, None if it takes none."""

    op_type: str
    domain: str
    attributes: dict[str, Any]
    bias_input: int | None = None


class Form(Protocol):
    """A storage form. Codes come a chunk of rows at a time, so that no matrix is ever whole in memory."""

    def fitted(self, columns: int) -> Form:
        """The form for matrices of so many columns. Raises ValueError if they can't be stored this way."""
        ...

    def encode(self, rows: FloatArray) -> tuple[Array, ...]:
        """The pieces of some rows, in the order of `pieces`."""
        ...

    def linear(self, shape: tuple[int, int]) -> tuple[Call, tuple[Piece, ...]]:
        """The operator for x · matrixᵀ, inputs (x, *pieces)."""
        ...

    def embedding(self, shape: tuple[int, int]) -> tuple[Call, tuple[Piece, ...]]:
        """The operator for matrix[ids], inputs (first piece, ids, *other pieces)."""
        ...


@dataclass(frozen=True)
class Int8Blocks:
    """8-bit codes, one float32 scale for each `block_size` weights along a row, symmetric around 128.

    Read by MatMulNBits and GatherBlockQuantized, whose default zero point is 128. One set of bytes
    serves both, so tied tables are stored once.
    """

    block_size: int
    accuracy_level: int

    def fitted(self, columns: int) -> Int8Blocks:
        """Blocks must fill a row: the next smaller size that does."""
        size = self.block_size
        while columns % size:
            size //= 2
        if size < 16:
            raise ValueError(f"{columns} columns are not a multiple of 16")
        return replace(self, block_size=size)

    def encode(self, rows: FloatArray) -> tuple[Array, ...]:
        blocks = rows.reshape(rows.shape[0], -1, self.block_size)
        peak = np.maximum(blocks.max(axis=2), -blocks.min(axis=2))
        scales = peak / np.float32(127)
        inverse = np.float32(127) / np.maximum(peak, np.float32(1e-30))
        scaled = blocks * inverse[..., None]
        scaled += np.float32(128.5)  # truncation below then rounds half up
        return scaled.astype(np.uint8), scales

    def linear(self, shape: tuple[int, int]) -> tuple[Call, tuple[Piece, ...]]:
        rows, columns = shape
        blocks = columns // self.block_size
        attributes = {
            "K": columns,
            "N": rows,
            "bits": 8,
            "block_size": self.block_size,
            "accuracy_level": self.accuracy_level,
        }
        codes = Piece("codes", ir.DataType.UINT8, (rows, blocks, self.block_size))
        scales = Piece("scales", ir.DataType.FLOAT, (rows, blocks))
        return Call("MatMulNBits", MICROSOFT, attributes, bias_input=5), (codes, scales)

    def embedding(self, shape: tuple[int, int]) -> tuple[Call, tuple[Piece, ...]]:
        rows, columns = shape
        attributes = {"bits": 8, "block_size": self.block_size, "gather_axis": 0, "quantize_axis": 1}
        codes = Piece("codes", ir.DataType.UINT8, shape)
        scales = Piece("scales", ir.DataType.FLOAT, (rows, columns // self.block_size))
        return Call("GatherBlockQuantized", MICROSOFT, attributes), (codes, scales)


@dataclass(frozen=True)
class Float32:
    """Plain float32 rows: the reference that quantized bundles are judged against."""

    def fitted(self, columns: int) -> Float32:
        del columns
        return self

    def encode(self, rows: FloatArray) -> tuple[Array, ...]:
        return (rows,)

    def linear(self, shape: tuple[int, int]) -> tuple[Call, tuple[Piece, ...]]:
        """FusedMatMul multiplies by the transpose, so rows stay as they are and a tied table is shared."""
        return Call("FusedMatMul", MICROSOFT, {"transB": 1}), (Piece("weights", ir.DataType.FLOAT, shape),)

    def embedding(self, shape: tuple[int, int]) -> tuple[Call, tuple[Piece, ...]]:
        return Call("Gather", "", {"axis": 0}), (Piece("weights", ir.DataType.FLOAT, shape),)


@dataclass(frozen=True)
class Recipe:
    """Which form each kind of matrix takes (`devices.MATRICES`), and a description of it."""

    forms: Mapping[str, Form]
    quantization: Quantization

    def form(self, matrix: str) -> Form:
        """The form of `layers.3.qkv`, `embedding` or `head`; the embedding takes the head's."""
        kind = matrix.rpartition(".")[2]
        return self.forms["head" if kind == "embedding" else kind]


def fp32() -> Recipe:
    return Recipe(dict.fromkeys(MATRICES, Float32()), Quantization("fp32", 32))


def int8(form: MatMulForm) -> Recipe:
    """8 bits everywhere, in the blocks that a device profile asks for."""
    forms = {kind: Int8Blocks(size, form.accuracy_level) for kind, size in form.block_size.items()}
    return Recipe(forms, Quantization("int8", form.bits, form.block_size, form.accuracy_level))
