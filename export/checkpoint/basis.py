"""Basis: the same model in a basis where no channel stands out, so that few bits hold its activations.

A transformer computes the same in any orthogonal basis of its residual stream, once the norms' weights are
folded into the matrices that follow them; in a random basis activations are nearly Gaussian, and a block of
them loses less to quantization than one with an outlier. Heads are rotated likewise between v and o, and the
input of down, which no weight can rotate, in blocks at run time. After QuaRot (Ashkboos et al., 2024,
arXiv:2404.00456); unlike there, sizes need not be powers of two, and tied embeddings stay tied.

A norm between a matrix and the residual stream (Gemma 3, OLMo 2) ties the stream to its basis. There, what
layers and the head read of the stream is rotated in blocks at run time, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np

from edgert.export.rotation import BlockRotation, Rotation, across, random_rotation

from . import Checkpoint, FloatArray, InMemory, StoredTensor
from .spec import ModelSpec

Transform = Callable[[FloatArray], FloatArray]

READ_BLOCK = 64  # at most: channels of the residual stream that are rotated together when they are read


@dataclass
class Turn:
    """What a basis does to a matrix: to its rows, and to its columns."""

    row_transforms: list[Transform] = field(default_factory=list)
    column_transforms: list[Transform] = field(default_factory=list)

    def rows(self, x: FloatArray) -> FloatArray:
        """x (rows, n)."""
        for transform in self.row_transforms:
            x = transform(x)
        return x

    def columns(self, x: FloatArray) -> FloatArray:
        """x (n, columns)."""
        for transform in self.column_transforms:
            x = transform(x)
        return x


def rotated(checkpoint: Checkpoint, hadamard: int = 0, *, spread: bool = False) -> Checkpoint:
    """The checkpoint in a random basis; what it computes is the same up to float32 rounding.

    `hadamard`: how many channels of down's input the graph rotates together (a power of two that divides
    the intermediate size), 0 for none. `spread`: the graph also mixes such blocks with each other.
    """
    spec, rotator = _rotate(checkpoint, hadamard, spread)
    return replace(checkpoint, spec=spec, tensors=rotator.tensors)


def turns(checkpoint: Checkpoint, hadamard: int = 0, *, spread: bool = False) -> Mapping[str, Turn]:
    """What `rotated` does to each matrix, by name: for what is added to one in the same basis."""
    return _rotate(checkpoint, hadamard, spread)[1].turns


def _rotate(checkpoint: Checkpoint, hadamard: int, spread: bool) -> tuple[ModelSpec, _Rotator]:
    spec = _with_turns(checkpoint.spec, hadamard, spread)
    rotator = _Rotator(dict(checkpoint.tensors), spec)
    layers = [f"layers.{layer}" for layer in range(spec.num_layers)]
    for layer in layers:
        rotator.rotate_heads(layer)
        if spec.down_turn:
            rotator.rotate_down(layer, spec.down_turn)
    if spec.read_turn:
        rotator.rotate_reads(layers, spec.read_turn)
    else:
        rotator.rotate_stream(layers)
    return spec, rotator


def _with_turns(spec: ModelSpec, hadamard: int, spread: bool) -> ModelSpec:
    """The spec with what its graph rotates at run time."""

    def turn(width: int, size: int) -> BlockRotation:
        return BlockRotation(size, across(width // size) if spread else 1)

    if hadamard:
        spec = replace(spec, down_turn=turn(spec.intermediate_size, hadamard))
    if spec.post_norms:
        size = min(READ_BLOCK, spec.hidden_size & -spec.hidden_size)
        return replace(spec, read_turn=turn(spec.hidden_size, size))
    return replace(spec, head_mix=spec.tied_embeddings)


class _Rotator:
    """Replaces tensors by rotated ones, nothing of which is computed before it is read."""

    def __init__(self, tensors: dict[str, StoredTensor], spec: ModelSpec) -> None:
        self.tensors = tensors
        self.turns: dict[str, Turn] = defaultdict(Turn)
        self.tied = spec.tied_embeddings
        self.basis, self.heads = random_rotation(spec.hidden_size), random_rotation(spec.head_dim)
        self.latest = _Latest()

    def rotate_heads(self, layer: str) -> None:
        """Between v and o."""
        groups = _by_head(self.heads)
        v = self.tensors[f"{layer}.v.weight"]
        self.tensors[f"{layer}.v.weight"] = _Groups(v, self.heads.size, groups)
        self.turns[f"{layer}.v.weight"].row_transforms.append(groups)
        self._bias(f"{layer}.v", groups)
        self._columns(f"{layer}.o", _per_head(self.heads))

    def rotate_down(self, layer: str, turn: BlockRotation) -> None:
        """The columns of down, whose input the graph rotates."""
        self._columns(f"{layer}.down", turn)

    def rotate_reads(self, layers: list[str], turn: BlockRotation) -> None:
        """The columns of what reads the residual stream, whose input the graph rotates.

        Rows of a tied table are looked up as the head has them: the graph turns them back.
        """
        self._columns("embedding" if self.tied else "head", turn)
        for layer in layers:
            for name in ("q", "k", "v", "gate", "up"):
                self._columns(f"{layer}.{name}", turn)

    def rotate_stream(self, layers: list[str]) -> None:
        """The residual stream: what is looked up, what layers read and write, what the head reads."""
        self._columns("embedding", self.basis.right)
        for layer in layers:
            self._fold(f"{layer}.attn_norm", [f"{layer}.{name}" for name in "qkv"])
            self._writes(f"{layer}.o")
            self._fold(f"{layer}.mlp_norm", [f"{layer}.gate", f"{layer}.up"])
            self._writes(f"{layer}.down")
        self._rotate_head()

    def _rotate_head(self) -> None:
        """A tied table has the embedding's basis, so the norm's weight becomes a matrix of its own."""
        if not self.tied:
            self._fold("final_norm", ["head"])
            return
        diagonal = np.diag(self._norm("final_norm"))
        self.tensors["head_mix.weight"] = InMemory(self.basis.left(self.basis.right(diagonal)))

    def _fold(self, norm: str, readers: list[str]) -> None:
        """Readers of the residual stream: the norm's weight, then the basis, on their columns."""
        weight = self._norm(norm)
        for name in readers:
            self._columns(name, lambda x: self.basis.right(x * weight))

    def _writes(self, name: str) -> None:
        """Writers of the residual stream: the basis on their rows."""
        tensor = self.tensors[f"{name}.weight"]
        self.tensors[f"{name}.weight"] = _Whole(tensor, self.basis.left, self.latest)
        self.turns[f"{name}.weight"].row_transforms.append(self.basis.left)
        self._bias(name, self.basis.left)

    def _columns(self, name: str, transform: Transform) -> None:
        self.tensors[f"{name}.weight"] = _Columns(self.tensors[f"{name}.weight"], transform)
        self.turns[f"{name}.weight"].column_transforms.append(transform)

    def _bias(self, name: str, transform: Transform) -> None:
        if (bias := self.tensors.get(f"{name}.bias")) is not None:
            column = bias.rows(0, bias.shape[0])[:, None]
            self.tensors[f"{name}.bias"] = InMemory(transform(column)[:, 0])

    def _norm(self, name: str) -> FloatArray:
        """A norm's weight, which becomes ones."""
        tensor = self.tensors[f"{name}.weight"]
        weight = tensor.rows(0, tensor.shape[0])
        self.tensors[f"{name}.weight"] = InMemory(np.ones_like(weight))
        return weight


def _by_head(head: Rotation) -> Transform:
    """Rows of v, a head's at a time."""
    return lambda x: np.concatenate([head.left(part) for part in np.split(x, len(x) // head.size)])


def _per_head(head: Rotation) -> Transform:
    """Columns of o, a head's at a time."""
    return lambda x: head.right(x.reshape(-1, head.size)).reshape(x.shape)


@dataclass(frozen=True)
class _Columns:
    """A tensor whose rows are scaled by a norm's weight and rotated: rows still come one by one."""

    tensor: StoredTensor
    transform: Callable[[FloatArray], FloatArray]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    def rows(self, start: int, stop: int) -> FloatArray:
        return self.transform(self.tensor.rows(start, stop))


@dataclass(frozen=True)
class _Groups:
    """A tensor whose rows are mixed within groups of `size`: the heads of v."""

    tensor: StoredTensor
    size: int
    transform: Callable[[FloatArray], FloatArray]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    def rows(self, start: int, stop: int) -> FloatArray:
        first, last = start // self.size * self.size, -(-stop // self.size) * self.size
        return self.transform(self.tensor.rows(first, last))[start - first : stop - first]


@dataclass(frozen=True)
class _Whole:
    """A tensor whose rows are all mixed: whole, computed once, dropped when another is asked for."""

    tensor: StoredTensor
    transform: Callable[[FloatArray], FloatArray]
    latest: _Latest

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    def rows(self, start: int, stop: int) -> FloatArray:
        return self.latest.of(self)[start:stop]


@dataclass
class _Latest:
    """The one mixed matrix that is held in memory."""

    owner: _Whole | None = None
    matrix: FloatArray = field(default_factory=lambda: np.empty(0, np.float32))
    lock: Lock = field(default_factory=Lock)

    def of(self, tensor: _Whole) -> FloatArray:
        with self.lock:
            if self.owner is not tensor:
                self.owner, self.matrix = None, np.empty(0, np.float32)  # the old one first
                self.matrix = tensor.transform(tensor.tensor.rows(0, tensor.shape[0]))
                self.owner = tensor
            return self.matrix
