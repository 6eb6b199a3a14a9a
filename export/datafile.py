"""The bundle's data file: blobs appended one after another, page-aligned, hashed as they are written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgert.bundle import FileFacts

from .checkpoint import FloatArray, StoredTensor
from .forms import Form
from .matrix import Matrix
from .threads import ordered_map

PAGE_BYTES = 4096  # ONNX Runtime memory-maps external data; aligned blobs map without a copy


@dataclass(frozen=True)
class Extent:
    """Where a blob lies in the data file, in bytes."""

    offset: int
    length: int


class DataFile:
    """A file that only grows. Use as a context manager; `facts` after the block."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._hash = hashlib.sha256()
        self._size = 0

    def __enter__(self) -> DataFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    @property
    def facts(self) -> FileFacts:
        return FileFacts(self._size, self._hash.hexdigest())

    def append(self, arrays: Iterable[npt.NDArray[Any]]) -> Extent:
        """Write arrays one behind the other as one blob."""
        self._write(bytes(-self._size % PAGE_BYTES))
        start = self._size
        for array in arrays:
            self._write(np.ascontiguousarray(array).data)
        return Extent(start, self._size - start)

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._size += len(data) if isinstance(data, bytes) else data.nbytes


def write_matrix(
    data: DataFile,
    matrix: Matrix,
    form: Form,
    factor: FloatArray | None,
    advance: Callable[[int], None],
) -> dict[str, Extent]:
    """Encode a matrix chunk by chunk. The first piece streams to the file (one that is stored columns first
    is gathered before), the small others follow it.

    `factor` calibrates the rounding. `advance` is told the number of weights done after each chunk. Raises
    FloatingPointError for weights that are not finite.
    """
    pieces = [piece.name for piece in form.pieces(matrix.shape, "matrix")]
    rest: list[list[npt.NDArray[Any]]] = [[] for _ in pieces[1:]]

    def encode(chunk: tuple[StoredTensor, int, int]) -> tuple[npt.NDArray[Any], ...]:
        tensor, start, stop = chunk
        rows = tensor.rows(start, stop)
        if not np.isfinite(rows.sum()):  # one pass; NaN and infinities survive a sum
            raise FloatingPointError("holds weights that are not finite (NaN or infinite)")
        return form.encode(rows, factor)

    def first_piece() -> Iterator[npt.NDArray[Any]]:
        for first, *others in ordered_map(encode, matrix.chunks()):
            for store, array in zip(rest, others, strict=True):
                store.append(array)
            yield first
            advance(len(first) * matrix.shape[1])

    extents = {pieces[0]: data.append(form.arranged(first_piece()))}
    for name, arrays in zip(pieces[1:], rest, strict=True):
        extents[name] = data.append(arrays)
    return extents
