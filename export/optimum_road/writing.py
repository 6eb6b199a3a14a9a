"""Writing: a traced graph with its matrices stored, as files of a bundle, and the facts of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from edgert.bundle import DATA, GENAI_GRAPH, GRAPH, FileFacts, ModelFacts
from edgert.bundle.graph_io import SHARED
from edgert.export.datafile import DataFile, Encoding, write_matrices
from edgert.export.layer import MICROSOFT
from edgert.export.matrix import EMBEDDING
from edgert.export.writer import INLINE_BYTES, Progress, set_external

from .genai import for_genai
from .interface import Cache
from .products import HEAD
from .report import Report
from .store import Store
from .student import Student


@dataclass(frozen=True)
class Graph:
    """A graph that the passes have been over: its cache (`kind`: one of graph_io.CACHES), its matrices, and
    what the passes report.
    """

    model: ir.Model
    cache: Cache
    kind: str
    store: Store
    reports: tuple[Report, ...]

    @property
    def parameters(self) -> int:
        """Weights of stored matrices, and numbers of all other float constants."""
        pieces = {place.value for place in self.store.places}  # of the matrices
        others = [
            value.const_value
            for value in self.model.graph.initializers.values()
            if value not in pieces
            and value.const_value is not None
            and value.const_value.dtype == ir.DataType.FLOAT
        ]
        matrices = sum(matrix.size for matrix in self.store.matrices.values())
        return matrices + sum(math.prod(tensor.shape.numpy()) for tensor in others)


def write_graph(graph: Graph, aside: Path, progress: Progress) -> FileFacts:
    """Write the graph and its data into `aside`; facts of the data. Raises ValueError."""
    matrices = graph.store.matrices
    done, total = 0, sum(matrix.size for matrix in matrices.values())

    def advance(weights: int) -> None:
        nonlocal done
        done += weights
        progress(done, total)

    with DataFile(aside / DATA) as data:
        encodings = (Encoding(name, matrix, graph.store.forms[name]) for name, matrix in matrices.items())
        extents = write_matrices(data, encodings, advance)
        _take_over_constants(graph.model, data)
    for place in graph.store.places:
        set_external(place.value, extents[place.matrix, place.piece])
        graph.model.graph.register_initializer(place.value)
    graph.model.opset_imports[MICROSOFT] = 1
    _save(graph.model, aside / GRAPH)
    if graph.kind == SHARED:
        _save(for_genai(graph.model), aside / GENAI_GRAPH)
    return data.facts


def _save(model: ir.Model, path: Path) -> None:
    ir.save(model, path)
    onnx.checker.check_model(str(path))


def _take_over_constants(model: ir.Model, data: DataFile) -> None:
    """Norms, biases, other tables: to the data file; small ones into the graph."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            continue
        if tensor.nbytes < INLINE_BYTES:
            value.const_value = ir.tensor(tensor.numpy().copy(), name=str(value.name))
            continue
        value.shape, value.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
        set_external(value, data.append([tensor.numpy()]))


def model_facts(student: Student, graph: Graph, context: int) -> ModelFacts:
    """The model as the manifest describes it, for sequences of up to `context` tokens."""
    cache, store = graph.cache, graph.store
    return ModelFacts(
        family=student.family,
        parameters=graph.parameters,
        num_layers=cache.num_layers,
        hidden_size=student.hidden_size,
        intermediate_size=student.intermediate_size,
        num_heads=student.num_heads,
        num_kv_heads=cache.num_kv_heads,
        head_dim=cache.head_dim,
        vocab_size=store.matrices[HEAD].shape[0] if HEAD in store.matrices else student.vocab_size,
        context=context,
        tied_embeddings=str(EMBEDDING) in store.matrices and HEAD not in store.matrices,
    )
