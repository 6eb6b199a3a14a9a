"""Weights: how many bytes of a bundle's stored weights a decode step has to read.

Told from the graph file itself, which says of every initializer how long it is. ONNX files are protocol
buffers, of which a few fields suffice: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from edgert.bundle import Bundle
from edgert.errors import BundleError

# Operators that take a row of a table for a token: the embedding, and the angles of its position.
LOOK_UP = {"Gather", "GatherBlockQuantized", "GroupQueryAttention", "RotaryEmbedding"}

# Field numbers of onnx.proto: of a model, a graph, a node, a tensor, an entry of its external data.
GRAPH, NODE, INITIALIZER = 7, 1, 5
INPUT, OPERATOR = 1, 4
DIMENSION, NAME, RAW, EXTERNAL = 1, 8, 9, 13
KEY, VALUE = 1, 2

VARINT, DELIMITED = 0, 2
FIXED = {1: 8, 5: 4}  # bytes of the other kinds of fields

Field: TypeAlias = tuple[int, int | bytes]


@dataclass(frozen=True)
class Stored:
    """An initializer: its first dimension, its bytes, and where they are, an offset in the data file or its
    own name. Two with the same place share their bytes: tied tables.
    """

    name: str
    rows: int
    size: int
    place: str


def step_bytes(bundle: Bundle, graph: str) -> int:
    """Bytes of weights that one decode step reads: codes and scales of every matrix as they are stored, the
    head among them, norms and biases; of tables that are only looked up, an untied embedding, one row.

    ONNX Runtime may keep more than this in memory beside the codes. Raises BundleError.
    """
    path = bundle.path(graph)
    try:
        stored, operators = _read(path.read_bytes())
    except (OSError, ValueError, KeyError) as error:
        raise BundleError(f"{path}: not a graph ({error}); export or pull it again") from error
    whole: dict[str, int] = {}
    rows: dict[str, int] = {}
    for name, found in stored.items():
        if operators.get(name, set()) - LOOK_UP:
            whole[found.place] = found.size
        elif name in operators:
            rows[found.place] = found.size // max(found.rows, 1)
    return sum({**rows, **whole}.values())


def _read(model: bytes) -> tuple[Mapping[str, Stored], Mapping[str, set[str]]]:
    """The initializers by name, and the operators that read each value."""
    stored: dict[str, Stored] = {}
    operators: dict[str, set[str]] = {}
    for graph in _parts(model, GRAPH):
        for tensor in _parts(graph, INITIALIZER):
            found = _initializer(tensor)
            stored[found.name] = found
        for node in _parts(graph, NODE):
            operator = b"".join(_parts(node, OPERATOR)).decode()
            for name in _parts(node, INPUT):
                operators.setdefault(name.decode(), set()).add(operator)
    return stored, operators


def _initializer(tensor: bytes) -> Stored:
    """Its external data say where it begins and how long it is; small ones are in the graph."""
    name = b"".join(_parts(tensor, NAME)).decode()
    rows = next(_dimensions(tensor), 1)
    entries = {}
    for entry in _parts(tensor, EXTERNAL):
        entries[b"".join(_parts(entry, KEY))] = b"".join(_parts(entry, VALUE)).decode()
    if entries:
        return Stored(name, rows, int(entries[b"length"]), entries.get(b"offset", "0"))
    return Stored(name, rows, len(b"".join(_parts(tensor, RAW))), name)


def _dimensions(tensor: bytes) -> Iterator[int]:
    """Each in a field, or all in one."""
    for number, value in _fields(tensor):
        if number != DIMENSION:
            continue
        if isinstance(value, int):
            yield value
            continue
        at = 0
        while at < len(value):
            size, at = _varint(value, at)
            yield size


def _parts(message: bytes, number: int) -> Iterator[bytes]:
    """The texts or messages of one field."""
    return (value for found, value in _fields(message) if found == number and isinstance(value, bytes))


def _fields(message: bytes) -> Iterator[Field]:
    """Number and content of each field; numbers of fixed width are skipped. Raises ValueError."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield number, value
        elif kind == DELIMITED:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError("it is cut short")
            yield number, message[at : at + length]
            at += length
        elif kind in FIXED:
            at += FIXED[kind]
        else:
            raise ValueError(f"a field of kind {kind} at byte {at}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits per byte, lowest first, and where the next thing begins. Raises ValueError."""
    value = shift = 0
    while at < len(message):
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("it is cut short")
