"""Rows: a storage form for cores that multiply whole integer matrices only, alone or shared with blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from .checkpoint import FloatArray
from .forms import Array, Blocks, Form, FormBase, Piece, Use, Weights, constant
from .layer import MICROSOFT
from .rounding import gptq, nearest

LAST = np.array([-1])
STRIP = 256  # columns that are turned at a time
ALL = "rows"  # owner of the constants that all matrices read


@dataclass(frozen=True)
class Rows(FormBase):
    """8-bit codes and one float32 scale per row, for cores that have integer kernels for whole products only.

    `shared`: stored around 128, as blocks want them. `unsigned`: read around 128, for x86 without VNNI, where
    sums of signed products overflow. Where one isn't the other, codes are turned at load, which takes memory
    then. `columns_first`: stored (columns, rows), as whole products are packed from in half the time; such a
    matrix can't be looked up in.

    Activations take a scale per token, which no single operator does; DynamicQuantizeLinear's one scale for
    all tokens destroys small models. Good only where no channel stands out (basis.py).
    """

    bits: int = 8
    shared: bool = False
    unsigned: bool = False
    columns_first: bool = False

    @property
    def label(self) -> str:
        return "rows8"

    def fitted(self, columns: int) -> Rows:
        del columns
        return self

    def reading(self, storage: Form) -> Rows:
        return replace(self, shared=isinstance(storage, RowsAndBlocks))

    def only_multiplied(self) -> Rows:
        """The form of a matrix that nothing but whole products reads."""
        return replace(self, columns_first=not self.shared)

    def pieces(self, shape: tuple[int, int], use: Use) -> tuple[Piece, ...]:
        around_128 = self.shared or (self.unsigned and use == "matrix")
        dtype = ir.DataType.UINT8 if around_128 else ir.DataType.INT8
        stored = shape[::-1] if self.columns_first else shape
        return Piece("codes", dtype, stored), Piece("row_scales", ir.DataType.FLOAT, (shape[0],))

    def encode(self, rows: FloatArray, factor: FloatArray | None) -> tuple[Array, ...]:
        columns = rows.shape[1]
        rounded = nearest(rows, columns, 8) if factor is None else gptq(rows, columns, 8, factor)
        codes = rounded.codes if self.shared else (rounded.codes ^ np.uint8(128)).view(np.int8)
        return codes, rounded.grid.scales[:, 0]

    def arranged(self, codes: Iterable[Array]) -> Iterable[Array]:
        if not self.columns_first:
            return codes
        chunks = list(codes)
        strips = range(0, chunks[0].shape[1], STRIP)
        return (np.concatenate([rows[:, start : start + STRIP] for rows in chunks]).T for start in strips)

    def decode(self, pieces: tuple[Array, ...]) -> FloatArray:
        codes, scales = pieces
        middle = np.float32(128 if self.shared else 0)
        weights: FloatArray = (codes.astype(np.float32) - middle) * scales[:, None]
        return weights

    def multiply(self, tape: ir.tape.Tape, x: ir.Value, weights: Weights, bias: ir.Value | None) -> ir.Value:
        """x in codes by its largest value per token, an integer product, that value back.

        Nodes that name the same x, such as those of gate and up, become one at load.
        """
        name = weights.name
        largest = tape.op(
            "ReduceMax", [tape.op("Abs", [x]), constant(tape, ALL, "last", LAST)], {"keepdims": 1}
        )
        step = constant(tape, ALL, "step", np.array(1 / 127, np.float32))
        middle = constant(tape, ALL, "middle", np.array(128, np.uint8))
        # A token of zeros gives NaN here, then any code, and times its largest value 0 again.
        codes = tape.op("QuantizeLinear", [tape.op("Div", [x, largest]), step, middle])
        flat = _is_flat(x)
        if not flat:
            codes = tape.op(
                "Reshape", [codes, constant(tape, name, "flat", np.array([-1, weights.shape[1]]))]
            )
        stored, scales = weights.values
        zero = np.uint8(128) if self.unsigned else np.int8(0)
        zeros = constant(tape, name, f"zeros.{zero.dtype}", np.full(weights.shape[0], zero))
        inputs = [codes, step, middle, self._as_read(tape, stored, name), scales, zeros]
        turn = {"transB": int(not self.columns_first)}
        product = tape.op("QGemm", inputs, turn, domain=MICROSOFT, name=name)
        if not flat:
            product = self._as_before(tape, product, x, weights)
        scaled = tape.op("Mul", [product, largest], name=f"{name}/scaled")
        return scaled if bias is None else tape.op("Add", [scaled, bias], name=f"{name}/bias")

    def _as_before(self, tape: ir.tape.Tape, product: ir.Value, x: ir.Value, weights: Weights) -> ir.Value:
        """The product with the axes of x; QGemm knows two."""
        axes = tape.op("Shape", [x], {"end": -1})
        width = constant(tape, weights.name, "width", np.array([weights.shape[0]]))
        return tape.op("Reshape", [product, tape.op("Concat", [axes, width], {"axis": 0})])

    def look_up(self, tape: ir.tape.Tape, ids: ir.Value, weights: Weights) -> ir.Value:
        codes, scales = weights.values
        picked = tape.op("Cast", [tape.op("Gather", [codes, ids])], {"to": ir.DataType.FLOAT})
        if self.shared:
            shift = constant(tape, ALL, "shift", np.array(128, np.float32))
            picked = tape.op("Sub", [picked, shift])
        axis = constant(tape, ALL, "last", LAST)
        scale = tape.op("Unsqueeze", [tape.op("Gather", [scales, ids]), axis])
        return tape.op("Mul", [picked, scale], name=weights.name)

    def _as_read(self, tape: ir.tape.Tape, codes: ir.Value, name: str) -> ir.Value:
        """Codes around 0, or 128 if `unsigned`: then a token takes 1.6 times as long on a Cortex-A72."""
        if self.shared == self.unsigned:
            return codes
        flipped = tape.op("BitwiseXor", [codes, constant(tape, ALL, "sign", np.array(128, np.uint8))])
        return flipped if self.unsigned else tape.op("Cast", [flipped], {"to": ir.DataType.INT8})


@dataclass(frozen=True)
class RowsAndBlocks(FormBase):
    """Rows that a second graph reads as blocks, whose scales are the row's again and again.

    The codes are the same bytes; a float32 per block comes on top. So one bundle serves devices of both
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

    @property
    def block_size(self) -> int:
        return self.blocks.block_size

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


def _is_flat(x: ir.Value) -> bool:
    """Whether x is known to be (tokens, columns)."""
    return x.shape is not None and len(x.shape) == 2


def joined(first: Form, second: Form) -> Form:
    """One form that both can be read from. Raises ValueError where there is none."""
    if first == second:
        return first
    match first, second:
        case Blocks(), Blocks() if first.bits == second.bits:
            return min(first, second, key=lambda form: form.block_size)
        case (RowsAndBlocks(rows, blocks), Blocks(bits=8) as other):
            return RowsAndBlocks(rows, min(blocks, other, key=lambda form: form.block_size))
        case (Rows() as rows, Blocks(bits=8) as blocks) | (Blocks(bits=8) as blocks, Rows() as rows):
            return RowsAndBlocks(replace(rows, shared=True), blocks)
        case RowsAndBlocks(), Rows():
            return first
    raise ValueError(f"weights stored as {first.label} can't be read as {second.label}, too")
