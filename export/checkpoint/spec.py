"""ModelSpec: what the graph builder needs to know of a model. All dialects of configs end here."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, fields
from typing import Literal

from edgert.export.rotation import BlockRotation

from .rope import Rope

Activation = Literal["silu", "gelu_tanh"]


@dataclass(frozen=True)
class ModelSpec:
    """A decoder-only transformer with RMSNorm, rotary attention and a gated feed-forward.

    `rope_layers` and `windows` have one entry per layer: whether it rotates, and how many of the latest
    tokens it sees (None: all of them). `local_rope`: how layers with a window rotate, where that differs.
    `pre_norms` stand before attention and MLP, `post_norms` between these and the residual stream. `qk_norm`
    is of each head, with `qk_norm_whole` of all heads together. A model in another basis (basis.py) may need
    a matrix before its head, `head_mix`, and rotations at run time: `down_turn` before down, `read_turn`
    before what reads the residual stream.
    """

    family: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_context: int
    norm_eps: float
    rope: Rope
    rope_layers: tuple[bool, ...]
    windows: tuple[int | None, ...]
    tied_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    qk_norm_whole: bool = False
    pre_norms: bool = True
    post_norms: bool = False
    activation: Activation = "silu"
    local_rope: Rope | None = None
    head_mix: bool = False
    down_turn: BlockRotation | None = None
    read_turn: BlockRotation | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if (
                isinstance(value, int)
                and not isinstance(value, bool)
                and value < 1
                and field.default is MISSING
            ):
                raise ValueError(f"{field.name} must be positive, not {value}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"{self.num_heads} attention heads can't be shared by {self.num_kv_heads} KV heads evenly"
            )

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    def layer_rope(self, layer: int) -> Rope | None:
        """How a layer rotates queries and keys, None if it doesn't."""
        if not self.rope_layers[layer]:
            return None
        return self.local_rope if self.local_rope and self.windows[layer] else self.rope

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor a checkpoint of this model must hold, and no other."""
        shapes: dict[str, tuple[int, ...]] = {
            "embedding.weight": (self.vocab_size, self.hidden_size),
            "final_norm.weight": (self.hidden_size,),
        }
        if not self.tied_embeddings:
            shapes["head.weight"] = (self.vocab_size, self.hidden_size)
        if self.head_mix:
            shapes["head_mix.weight"] = (self.hidden_size, self.hidden_size)
        for layer in range(self.num_layers):
            for name, shape in self._layer_tensors().items():
                shapes[f"layers.{layer}.{name}"] = shape
        return shapes

    def _layer_tensors(self) -> dict[str, tuple[int, ...]]:
        kinds = ("norm",) * self.pre_norms + ("post_norm",) * self.post_norms
        shapes: dict[str, tuple[int, ...]] = {
            f"{part}_{kind}.weight": (self.hidden_size,) for part in ("attn", "mlp") for kind in kinds
        }
        for name, rows, columns, bias in (
            ("q", self.q_size, self.hidden_size, self.qkv_bias),
            ("k", self.kv_size, self.hidden_size, self.qkv_bias),
            ("v", self.kv_size, self.hidden_size, self.qkv_bias),
            ("o", self.hidden_size, self.q_size, self.o_bias),
            ("gate", self.intermediate_size, self.hidden_size, self.mlp_bias),
            ("up", self.intermediate_size, self.hidden_size, self.mlp_bias),
            ("down", self.hidden_size, self.intermediate_size, self.mlp_bias),
        ):
            shapes[f"{name}.weight"] = (rows, columns)
            if bias:
                shapes[f"{name}.bias"] = (rows,)
        if self.qk_norm:
            shapes["q_norm.weight"] = (self.q_size if self.qk_norm_whole else self.head_dim,)
            shapes["k_norm.weight"] = (self.kv_size if self.qk_norm_whole else self.head_dim,)
        return shapes

    @property
    def parameters(self) -> int:
        """Number of weights of the model as it was trained, tied tables counted once."""
        return sum(math.prod(shape) for name, shape in self.tensors().items() if name != "head_mix.weight")
