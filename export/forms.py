"""Storage forms: how a matrix is laid out on disk and which operators read it there."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from .checkpoint import FloatArray
from .layer import MICROSOFT
from .rounding import Grid, Rounded, gptq, nearest

Array = npt.NDArray[Any]
Use = Literal["matrix", "table"]
BIAS_INPUT = 5  # of MatMulNBits
Own = TypeVar("Own")


@dataclass(frozen=True)
class Piece:
    """One array of a stored matrix, e.g. the codes; the shape is that of an operator's input."""

    name: str
    dtype: ir.DataType
    shape: tuple[int, ...]


class Form(Protocol):
    """A storage form. Codes come a chunk of rows at a time, so that no table is ever whole in memory."""

    @property
    def bits(self) -> int:
        """Bits of a weight, without its share of a scale."""
        ...

    @property
    def label(self) -> str:
        """What device profiles call it: blocks8, blocks4, rows8 or fp32."""
        ...

    def bytes(self, shape: tuple[int, int]) -> int:
        """What a matrix takes with its scales."""
        ...

    def fitted(self, columns: int) -> Form:
        """The form for matrices of so many columns. Raises ValueError if they can't be stored this way."""
        ...

    def reading(self, storage: Form) -> Form:
        """The form for matrices that `joined` has given another form."""
        ...

    def pieces(self, shape: tuple[int, int], use: Use) -> tuple[Piece, ...]:
        """The arrays of a matrix as the operators of one use want them shaped; their bytes are the same."""
        ...

    def encode(self, rows: FloatArray, factor: FloatArray | None) -> tuple[Array, ...]:
        """The pieces of some rows; `factor` (of hessian.inverse_factor) calibrates their rounding."""
        ...

    def arranged(self, codes: Iterable[Array]) -> Iterable[Array]:
        """The first piece, encoded some rows at a time, in the order of the file."""
        ...

    def decode(self, pieces: tuple[Array, ...]) -> FloatArray:
        """The weights that encoded rows stand for."""
        ...

    def multiply(self, tape: ir.tape.Tape, x: ir.Value, weights: Weights, bias: ir.Value | None) -> ir.Value:
        """Record the operators of x · matrixᵀ + bias."""
        ...

    def look_up(self, tape: ir.tape.Tape, ids: ir.Value, weights: Weights) -> ir.Value:
        """Record the operators of matrix[ids]."""
        ...


class FormBase:
    """What forms have in common."""

    def reading(self: Own, storage: Form) -> Own:
        del storage
        return self

    def pieces(self, shape: tuple[int, int], use: Use) -> tuple[Piece, ...]:
        raise NotImplementedError

    def arranged(self, codes: Iterable[Array]) -> Iterable[Array]:
        return codes

    def bytes(self, shape: tuple[int, int]) -> int:
        pieces = self.pieces(shape, "matrix")
        return sum(math.prod(piece.shape) * int(piece.dtype.itemsize) for piece in pieces)


def stored(form: Form, rows: FloatArray) -> tuple[Array, ...]:
    """The pieces of a whole matrix as they lie in the file, rounded to the nearest codes."""
    codes, *others = form.encode(rows, None)
    return np.concatenate(list(form.arranged([codes]))), *others


@dataclass(frozen=True)
class Weights:
    """A stored matrix in a graph: its name, (rows, columns), and an initializer per piece."""

    name: str
    shape: tuple[int, int]
    values: tuple[ir.Value, ...]


@dataclass(frozen=True)
class Blocks(FormBase):
    """8-bit codes around 128 or 4-bit codes and a zero point; a scale for `block_size` weights of a row.

    Read by MatMulNBits and GatherBlockQuantized, whose default zero point is the middle code. One set of
    bytes serves both, so tied tables are stored once.
    """

    bits: int
    block_size: int
    accuracy_level: int

    @property
    def label(self) -> str:
        return f"blocks{self.bits}"

    def reading(self, storage: Form) -> Blocks:
        """Another device may have wanted smaller blocks; its level stays a device's own."""
        return replace(self, block_size=getattr(storage, "block_size", self.block_size))

    def fitted(self, columns: int) -> Blocks:
        """Blocks must fill a row: the next smaller size that does."""
        size = self.block_size
        while columns % size:
            size //= 2
        if size < 16:
            raise ValueError(f"{columns} columns are not a multiple of 16")
        return replace(self, block_size=size)

    def pieces(self, shape: tuple[int, int], use: Use) -> tuple[Piece, ...]:
        rows, columns = shape
        blocks, width = columns // self.block_size, columns * self.bits // 8
        packed = (rows, width) if use == "table" else (rows, blocks, width // blocks)
        pieces = (
            Piece("codes", ir.DataType.UINT8, packed),
            Piece("scales", ir.DataType.FLOAT, (rows, blocks)),
            Piece("zeros", ir.DataType.UINT8, (rows, -(-blocks // 2))),
        )
        return pieces if self.bits == 4 else pieces[:2]

    def encode(self, rows: FloatArray, factor: FloatArray | None) -> tuple[Array, ...]:
        if factor is None:
            rounded = nearest(rows, self.block_size, self.bits)
        else:
            rounded = gptq(rows, self.block_size, self.bits, factor)
        if self.bits == 8:
            return rounded.codes, rounded.grid.scales
        return _nibbles(rounded.codes), rounded.grid.scales, _nibbles(rounded.grid.zeros.astype(np.uint8))

    def decode(self, pieces: tuple[Array, ...]) -> FloatArray:
        codes, scales, *zeros = pieces
        if self.bits == 8:
            return Rounded(codes, Grid(scales, np.full_like(scales, 128), 8)).values()
        wide = _whole_bytes(zeros[0])[:, : scales.shape[1]].astype(np.float32)
        return Rounded(_whole_bytes(codes), Grid(scales, wide, 4)).values()

    def multiply(self, tape: ir.tape.Tape, x: ir.Value, weights: Weights, bias: ir.Value | None) -> ir.Value:
        attributes = {
            "K": weights.shape[1],
            "N": weights.shape[0],
            "bits": self.bits,
            "block_size": self.block_size,
            "accuracy_level": self.accuracy_level,
        }
        inputs: list[ir.Value | None] = [x, *weights.values]
        if bias is not None:
            inputs += [None] * (BIAS_INPUT - len(inputs)) + [bias]
        return tape.op("MatMulNBits", inputs, attributes, domain=MICROSOFT, name=weights.name)

    def look_up(self, tape: ir.tape.Tape, ids: ir.Value, weights: Weights) -> ir.Value:
        codes, *others = weights.values
        attributes = {
            "bits": self.bits,
            "block_size": self.block_size,
            "gather_axis": 0,
            "quantize_axis": 1,
        }
        inputs = [codes, ids, *others]
        return tape.op("GatherBlockQuantized", inputs, attributes, domain=MICROSOFT, name=weights.name)


@dataclass(frozen=True)
class Float32(FormBase):
    """Plain float32 rows: the reference that quantized bundles are judged against."""

    bits: int = 32

    @property
    def label(self) -> str:
        return "fp32"

    def fitted(self, columns: int) -> Float32:
        del columns
        return self

    def pieces(self, shape: tuple[int, int], use: Use) -> tuple[Piece, ...]:
        del use
        return (Piece("weights", ir.DataType.FLOAT, shape),)

    def encode(self, rows: FloatArray, factor: FloatArray | None) -> tuple[Array, ...]:
        del factor
        return (rows,)

    def decode(self, pieces: tuple[Array, ...]) -> FloatArray:
        return pieces[0]

    def multiply(self, tape: ir.tape.Tape, x: ir.Value, weights: Weights, bias: ir.Value | None) -> ir.Value:
        """FusedMatMul multiplies by the transpose, so rows stay as they are and a tied table is shared."""
        inputs = [x, *weights.values]
        product = tape.op("FusedMatMul", inputs, {"transB": 1}, domain=MICROSOFT, name=weights.name)
        return product if bias is None else tape.op("Add", [product, bias], name=f"{weights.name}/bias")

    def look_up(self, tape: ir.tape.Tape, ids: ir.Value, weights: Weights) -> ir.Value:
        return tape.op("Gather", [*weights.values, ids], {"axis": 0}, name=weights.name)


def _nibbles(codes: Array) -> Array:
    """4-bit codes (rows, n) two per byte, the first in the low half."""
    even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    packed: Array = even[:, ::2] | even[:, 1::2] << 4
    return packed


def _whole_bytes(packed: Array) -> Array:
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)


def constant(tape: ir.tape.Tape, owner: str, name: str, array: Array) -> ir.Value:
    """An initializer of the operators of a matrix, or of whatever else owns them."""
    return tape.initializer(ir.tensor(array, name=f"{owner}/{name}"))
