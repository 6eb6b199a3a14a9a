"""SeparateAdapter: a LoRA that stays beside its base, in the base's basis, for the runtime to choose."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from edgert.bundle import graph_io

from .checkpoint import FloatArray
from .checkpoint.adapter import Adapter, LowRank
from .checkpoint.basis import Turn
from .matrix import PARTS, Matrix, MatrixName, part_names

FORMAT = 1  # edgert's own, of an adapter's file; onnxruntime has one of its own


@dataclass(frozen=True)
class SeparateAdapter:
    """An adapter and the name to choose it by. `turns`: what the base's basis does to each of its tensors,
    nothing where it has none.
    """

    name: str
    adapter: Adapter
    turns: Mapping[str, Turn]

    @property
    def file(self) -> str:
        """Its file in the bundle."""
        return f"adapters/{self.name}.onnx_adapter"

    def matrices(self) -> set[MatrixName]:
        """The matrices of the graph that it changes."""
        layers = {int(name.split(".")[1]) for name in self.adapter.added}
        every = {MatrixName(layer, kind) for layer in layers for kind in PARTS}
        return {name for name in every if self.adapter.added.keys() & set(part_names(name))}

    def inputs(self, named: Mapping[MatrixName, Matrix]) -> dict[str, FloatArray]:
        """What the graph takes for it, by the names of its inputs."""
        found = {}
        for name in sorted(self.matrices(), key=str):
            for part, array in zip(graph_io.LORA_PARTS, self._pair(name, named[name]), strict=True):
                found[graph_io.lora(str(name), part)] = array
        return found

    def write(self, path: Path, named: Mapping[MatrixName, Matrix]) -> None:
        """A file that onnxruntime reads."""
        path.parent.mkdir(exist_ok=True)
        arrays = self.inputs(named)
        adapter = ort.AdapterFormat()
        adapter.set_adapter_version(FORMAT)
        adapter.set_model_version(FORMAT)
        adapter.set_parameters({name: ort.OrtValue.ortvalue_from_numpy(a) for name, a in arrays.items()})
        adapter.export_adapter(str(path))
        with path.open("rb+") as file:
            os.fsync(file.fileno())

    def _pair(self, name: MatrixName, matrix: Matrix) -> tuple[FloatArray, FloatArray]:
        """A (columns, rank) and B (rank, rows) of a matrix: those of its parts side by side."""
        names = part_names(name)
        ranks = [self.adapter.added[part].a.shape[0] if part in self.adapter.added else 0 for part in names]
        rows, columns = matrix.shape
        a, b = np.zeros((columns, sum(ranks)), np.float32), np.zeros((sum(ranks), rows), np.float32)
        top = left = 0
        for part, tensor, rank in zip(names, matrix.parts, ranks, strict=True):
            if rank:
                part_b, part_a = self._turned(part, self.adapter.added[part])
                a[:, left : left + rank] = part_a.T
                b[left : left + rank, top : top + tensor.shape[0]] = part_b.T
            top, left = top + tensor.shape[0], left + rank
        return a, b

    def _turned(self, name: str, added: LowRank) -> tuple[FloatArray, FloatArray]:
        """B times the scale, and A, in the basis of the base."""
        b = added.b.rows(0, added.b.shape[0]) * np.float32(added.scale)
        a = added.a.rows(0, added.a.shape[0])
        turn = self.turns.get(name)
        return (turn.rows(b), turn.columns(a)) if turn else (b, a)
