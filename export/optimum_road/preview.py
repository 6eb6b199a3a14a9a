"""Preview: what a bundle of this road would hold, told from config.json and the headers of the weights."""

from __future__ import annotations

import math

from edgert import __version__
from edgert.bundle import GRAPH, GraphFacts, Manifest, ModelFacts, Quantization
from edgert.bundle.graph_io import FP32
from edgert.export.forms import Float32, Form
from edgert.export.matrix import EMBEDDING

from .products import HEAD
from .student import Student, count_weights

OTHERS = "others"


def shapes_of(student: Student) -> dict[str, tuple[int, int]]:
    """(rows, columns) of the tables by name, and of all other matrices as if they were one."""
    table = (student.vocab_size, student.hidden_size)
    tables = dict.fromkeys([str(EMBEDDING)] if student.tied_embeddings else [str(EMBEDDING), HEAD], table)
    rest = count_weights(student.folder) - len(tables) * math.prod(table)
    return {**tables, OTHERS: (max(1, rest // student.hidden_size), student.hidden_size)}


def fitted(form: Form, columns: int) -> Form:
    """The form of so many columns: fp32 where they don't fit, as an export leaves such matrices alone."""
    try:
        return form.fitted(columns)
    except ValueError:
        return Float32()


def expect(
    student: Student,
    *,
    name: str,
    context: int,
    form: str,
    quantization: Quantization,
    devices: tuple[str, ...],
) -> Manifest:
    """The manifest that a bundle would have, but for its files and what tracing alone finds out.

    Whether the cache is shared is one of those. It is, for every family in docs/architectures.md, and those
    with ALiBi have one bias for all layers.
    """
    facts = ModelFacts(
        family=student.family,
        parameters=sum(math.prod(shape) for shape in shapes_of(student).values()),
        num_layers=student.num_layers,
        hidden_size=student.hidden_size,
        intermediate_size=student.intermediate_size,
        num_heads=student.num_heads,
        num_kv_heads=student.num_kv_heads,
        head_dim=student.head_dim,
        vocab_size=student.vocab_size,
        context=context,
        tied_embeddings=student.tied_embeddings,
    )
    return Manifest(
        name=name,
        model=facts,
        quantization=quantization,
        devices=devices,
        generation=student.generation,
        origin=student.origin,
        edgert=__version__,
        files={},
        graphs={GRAPH: GraphFacts(form, devices, FP32.name, attention_biases=int(student.alibi))},
    )
