"""Store: the matrices of a traced graph, each once however often the graph reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgert.export.checkpoint import FloatArray
from edgert.export.forms import Form, Use, Weights
from edgert.export.matrix import Matrix


@dataclass(frozen=True)
class Constant:
    """An initializer (rows, columns) as a StoredTensor; `turned`: the graph has it as (columns, rows)."""

    tensor: ir.TensorProtocol
    turned: bool

    @property
    def shape(self) -> tuple[int, ...]:
        rows, columns = self.tensor.shape.numpy()
        return (columns, rows) if self.turned else (rows, columns)

    def rows(self, start: int, stop: int) -> FloatArray:
        array = self.tensor.numpy()  # mapped, not read
        part = array[:, start:stop].T if self.turned else array[start:stop]
        found: FloatArray = np.ascontiguousarray(part, np.float32)
        return found


@dataclass(frozen=True)
class Place:
    """An initializer that waits for the bytes of one piece of a matrix."""

    value: ir.Value
    matrix: str
    piece: str


class Store:
    """Collects matrices by name; `form` is that of a name, before it is fitted."""

    def __init__(self, form: Callable[[str], Form]) -> None:
        self.matrices: dict[str, Matrix] = {}
        self.forms: dict[str, Form] = {}
        self.places: list[Place] = []
        self._form = form
        self._weights: dict[tuple[str, Use], Weights] = {}

    def add(self, name: str, constant: Constant, use: Use) -> tuple[Form, Weights]:
        """The form and initializers of a matrix, of the same one stored before where the bytes are equal.

        Raises ValueError if its columns don't fit the form.
        """
        name = self._known(constant) or name
        if name not in self.matrices:
            matrix = Matrix((constant,))
            self.forms[name] = self._form(name).fitted(matrix.shape[1])
            self.matrices[name] = matrix
        if (name, use) not in self._weights:
            self._weights[name, use] = self._open(name, use)
        return self.forms[name], self._weights[name, use]

    def _open(self, name: str, use: Use) -> Weights:
        shape = self.matrices[name].shape
        pieces = self.forms[name].pieces(shape, use)
        values = []
        for piece in pieces:
            value = ir.Value(
                name=f"{name}.{use}.{piece.name}",
                type=ir.TensorType(piece.dtype),
                shape=ir.Shape(piece.shape),
            )
            self.places.append(Place(value, name, piece.name))
            values.append(value)
        return Weights(f"{name}.{use}", shape, tuple(values))

    def _known(self, constant: Constant) -> str | None:
        """A tied head is traced as a second copy, turned around."""
        for name, matrix in self.matrices.items():
            if matrix.shape == constant.shape and _equal(matrix, constant):
                return name
        return None


def _equal(matrix: Matrix, constant: Constant) -> bool:
    """Bit for bit, a few rows at a time: most differ in the first."""
    ranges = ((start, stop) for _, start, stop in matrix.chunks())
    first = np.array_equal(matrix.parts[0].rows(0, 1), constant.rows(0, 1))
    return first and all(np.array_equal(matrix.parts[0].rows(*part), constant.rows(*part)) for part in ranges)
