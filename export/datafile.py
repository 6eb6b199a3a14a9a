"""The bundle's data file: blobs appended one after another, page-aligned, hashed as they are written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from edgert.bundle import FileFacts

from .checkpoint import FloatArray, StoredTensor
from .forms import Form
from .matrix import Matrix, check_finite
from .threads import ordered_map

CHUNKS_AHEAD = 8  # are encoded while what comes next is calibrated
PAGE_BYTES = 4096  # ONNX Runtime memory-maps external data; aligned blobs map without a copy

Name = TypeVar("Name", bound=Hashable)
Pieces = tuple[npt.NDArray[Any], ...]


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


@dataclass(frozen=True, eq=False)
class Encoding(Generic[Name]):
    """A matrix on its way into the file; `factor` calibrates its rounding."""

    name: Name
    matrix: Matrix
    form: Form
    factor: FloatArray | None = None

    def encode(self, chunk: tuple[StoredTensor, int, int]) -> Pieces:
        """The pieces of some rows. Raises ValueError for weights that are not finite."""
        tensor, start, stop = chunk
        rows = tensor.rows(start, stop)
        check_finite(self.name, rows)
        return self.form.encode(rows, self.factor)


def write_matrices(
    data: DataFile, encodings: Iterable[Encoding[Name]], advance: Callable[[int], None]
) -> dict[tuple[Name, str], Extent]:
    """Encode matrices chunk by chunk, one behind the other; where their pieces lie.

    `encodings` are made while chunks of earlier ones are encoded. `advance` is told the number of weights
    done after each chunk. Raises ValueError for weights that are not finite.
    """
    chunks = ((encoding, chunk) for encoding in encodings for chunk in encoding.matrix.chunks())
    encoded = ordered_map(lambda pair: (pair[0], pair[0].encode(pair[1])), chunks, ahead=CHUNKS_AHEAD)
    extents: dict[tuple[Name, str], Extent] = {}
    for encoding, found in groupby(encoded, lambda pair: pair[0]):
        written = _write_matrix(data, encoding, (pieces for _, pieces in found), advance)
        extents |= {(encoding.name, piece): extent for piece, extent in written.items()}
    return extents


def _write_matrix(
    data: DataFile, encoding: Encoding[Name], encoded: Iterable[Pieces], advance: Callable[[int], None]
) -> dict[str, Extent]:
    """The first piece streams to the file (one that is stored columns first is gathered before), the small
    others follow it.
    """
    shape = encoding.matrix.shape
    names = [piece.name for piece in encoding.form.pieces(shape, "matrix")]
    rest: list[list[npt.NDArray[Any]]] = [[] for _ in names[1:]]

    def first_piece() -> Iterator[npt.NDArray[Any]]:
        for first, *others in encoded:
            for store, array in zip(rest, others, strict=True):
                store.append(array)
            yield first
            advance(len(first) * shape[1])

    extents = {names[0]: data.append(encoding.form.arranged(first_piece()))}
    for name, arrays in zip(names[1:], rest, strict=True):
        extents[name] = data.append(arrays)
    return extents
