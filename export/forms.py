"""Storage forms: how a matrix is laid out on disk and which operators read it there."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from .checkpoint import FloatArray
from .layer import MICROSOFT
from .rounding import Grid, Rounded, gptq, nearest

Array = npt.NDArray[Any]
Use = Literal["matrix", "table"]
BIAS_INPUT = 5  # of MatMulNBits


@dataclass(frozen=True)
class Piece:
    """One array of a stored matrix, e.g. the codes; the shape is that of an operator's input."""

    name: str
    dtype: ir.DataType
    shape: tuple[int, ...]


class Form(Protocol):
    """A storage form. Codes come a chunk of rows at a time, so that no matrix is ever whole in memory."""

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

    def pieces(self, shape: tuple[int, int], use: Use) -> tuple[Piece, ...]:
        """The arrays of a matrix as the operators of one use want them shaped; their bytes are the same."""
        ...

    def encode(self, rows: FloatArray, factor: FloatArray | None) -> tuple[Array, ...]:
        """The pieces of some rows; `factor` (of rounding.inverse_factor) calibrates their rounding."""
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


class Stored:
    """What forms have in common."""

    def pieces(self, shape: tuple[int, int], use: Use) -> tuple[Piece, ...]:
        raise NotImplementedError

    def bytes(self, shape: tuple[int, int]) -> int:
        pieces = self.pieces(shape, "matrix")
        return sum(math.prod(piece.shape) * int(piece.dtype.itemsize) for piece in pieces)


@dataclass(frozen=True)
class Weights:
    """A stored matrix in a graph: its name, (rows, columns), and an initializer a piece."""

    name: str
    shape: tuple[int, int]
    values: tuple[ir.Value, ...]


@dataclass(frozen=True)
class Blocks(Stored):
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
            return Rounded(codes, Grid(scales, np.full_like(scales, 128))).values()
        wide = _whole_bytes(zeros[0])[:, : scales.shape[1]].astype(np.float32)
        return Rounded(_whole_bytes(codes), Grid(scales, wide)).values()

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
class Rows(Stored):
    """8-bit codes around 128 and one float32 scale a row, for cores that have integer kernels for whole
    products only.

    Activations take a scale a token, which no single operator does; DynamicQuantizeLinear's one scale for
    all tokens destroys small models. Good only where no channel stands out (basis.py). Batches of one.
    """

    bits: int = 8

    @property
    def label(self) -> str:
        return "rows8"

    def fitted(self, columns: int) -> Rows:
        del columns
        return self

    def pieces(self, shape: tuple[int, int], use: Use) -> tuple[Piece, ...]:
        del use
        return Piece("codes", ir.DataType.UINT8, shape), Piece("row_scales", ir.DataType.FLOAT, (shape[0],))

    def encode(self, rows: FloatArray, factor: FloatArray | None) -> tuple[Array, ...]:
        columns = rows.shape[1]
        rounded = nearest(rows, columns, 8) if factor is None else gptq(rows, columns, 8, factor)
        return rounded.codes, rounded.grid.scales[:, 0]

    def decode(self, pieces: tuple[Array, ...]) -> FloatArray:
        codes, scales = pieces
        weights: FloatArray = (codes.astype(np.float32) - np.float32(128)) * scales[:, None]
        return weights

    def multiply(self, tape: ir.tape.Tape, x: ir.Value, weights: Weights, bias: ir.Value | None) -> ir.Value:
        """x as unsigned codes around 128 with a scale a token, an integer product, both scales back."""
        codes, scales = weights.values
        scale, steps = self._quantized(tape, x, weights.name)
        flat = tape.op("Squeeze", [steps, _constant(tape, weights.name, "batch", np.array([0]))])
        middle = _constant(tape, weights.name, "middle", np.array(128, np.uint8))
        one = _constant(tape, weights.name, "one", np.array(1, np.float32))
        zeros = _constant(tape, weights.name, "zeros", np.zeros(weights.shape[0], np.int8))
        product = tape.op(
            "QGemm",
            [flat, one, middle, self._signed(tape, codes, weights.name), scales, zeros],
            {"transB": 1},
            domain=MICROSOFT,
            name=weights.name,
        )
        batched = tape.op("Unsqueeze", [product, _constant(tape, weights.name, "axis", np.array([0]))])
        scaled = tape.op("Mul", [batched, scale], name=f"{weights.name}/scaled")
        return scaled if bias is None else tape.op("Add", [scaled, bias], name=f"{weights.name}/bias")

    def look_up(self, tape: ir.tape.Tape, ids: ir.Value, weights: Weights) -> ir.Value:
        codes, scales = weights.values
        wide = tape.op("Cast", [tape.op("Gather", [codes, ids])], {"to": ir.DataType.FLOAT})
        picked = tape.op("Sub", [wide, _constant(tape, weights.name, "shift", np.array(128, np.float32))])
        axis = _constant(tape, weights.name, "last", np.array([-1]))
        scale = tape.op("Unsqueeze", [tape.op("Gather", [scales, ids]), axis])
        return tape.op("Mul", [picked, scale], name=weights.name)

    def _signed(self, tape: ir.tape.Tape, codes: ir.Value, name: str) -> ir.Value:
        """Codes around 0, made once at load: with unsigned weights a token takes 1.6 times as long."""
        flipped = tape.op("BitwiseXor", [codes, _constant(tape, name, "sign", np.array(128, np.uint8))])
        return tape.op("Cast", [flipped], {"to": ir.DataType.INT8})

    def _quantized(self, tape: ir.tape.Tape, x: ir.Value, name: str) -> tuple[ir.Value, ir.Value]:
        """Scale (batch, tokens, 1) and codes; matrices that read the same x share them after optimization."""
        axes = _constant(tape, name, "columns", np.array([-1]))
        largest = tape.op("ReduceMax", [tape.op("Abs", [x]), axes], {"keepdims": 1})
        step = tape.op("Mul", [largest, _constant(tape, name, "step", np.array(1 / 127, np.float32))])
        scale = tape.op("Max", [step, _constant(tape, name, "tiny", np.array(1e-30, np.float32))])
        whole = tape.op("Round", [tape.op("Div", [x, scale])])
        shifted = tape.op("Add", [whole, _constant(tape, name, "shift", np.array(128, np.float32))])
        return scale, tape.op("Cast", [shifted], {"to": ir.DataType.UINT8})


@dataclass(frozen=True)
class RowsAndBlocks(Stored):
    """Rows that a second graph reads as blocks, whose scales are the row's again and again.

    The codes are the same bytes; what comes on top is a float32 a block. So one bundle serves devices of both
    kinds; what is lost against blocks of their own is measured by the passport.
    """

    rows: Rows
    blocks: Blocks

    @property
    def bits(self) -> int:
        return self.rows.bits

    @property
    def label(self) -> str:
        return self.blocks.label

    def fitted(self, columns: int) -> RowsAndBlocks:
        return replace(self, blocks=self.blocks.fitted(columns))

    def pieces(self, shape: tuple[int, int], use: Use) -> tuple[Piece, ...]:
        return (*self.blocks.pieces(shape, use), self.rows.pieces(shape, use)[1])

    def encode(self, rows: FloatArray, factor: FloatArray | None) -> tuple[Array, ...]:
        codes, scales = self.rows.encode(rows, factor)
        blocks = rows.shape[1] // self.blocks.block_size
        return codes, np.repeat(scales[:, None], blocks, axis=1), scales

    def decode(self, pieces: tuple[Array, ...]) -> FloatArray:
        codes, _, scales = pieces
        return self.rows.decode((codes, scales))

    def multiply(self, tape: ir.tape.Tape, x: ir.Value, weights: Weights, bias: ir.Value | None) -> ir.Value:
        return self.blocks.multiply(tape, x, replace(weights, values=weights.values[:2]), bias)

    def look_up(self, tape: ir.tape.Tape, ids: ir.Value, weights: Weights) -> ir.Value:
        return self.blocks.look_up(tape, ids, replace(weights, values=weights.values[:2]))


def joined(first: Form, second: Form) -> Form:
    """One form that both can be read from. Raises ValueError where there is none."""
    if first == second:
        return first
    match first, second:
        case (Rows() as rows, Blocks(bits=8) as blocks) | (Blocks(bits=8) as blocks, Rows() as rows):
            return RowsAndBlocks(rows, blocks)
        case (RowsAndBlocks(rows, blocks) as both, other) if other in (rows, blocks):
            return both
    raise ValueError(f"weights stored as {first.label} can't be read as {second.label}, too")


@dataclass(frozen=True)
class Float32(Stored):
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
    """4-bit codes (rows, n) two a byte, the first in the low half."""
    even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    packed: Array = even[:, ::2] | even[:, 1::2] << 4
    return packed


def _whole_bytes(packed: Array) -> Array:
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)


def _constant(tape: ir.tape.Tape, matrix: str, name: str, array: Array) -> ir.Value:
    return tape.initializer(ir.tensor(array, name=f"{matrix}/{name}"))
