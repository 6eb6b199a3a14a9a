"""What goes into a bundle's graphs and comes out: the names, and the kinds of KV cache.

The exporter builds graphs by them, the runtime and onnxruntime-genai feed them. A name lives here only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

INPUT_IDS = "input_ids"  # int64 (batch, sequence)
LOGITS = "logits"  # float32 (batch, wanted, vocab)

# What edgert feeds besides.
SEQLENS_K = "seqlens_k"  # int32 (batch,): tokens in the cache after this run, minus one
TOTAL_SEQUENCE_LENGTH = "total_sequence_length"  # int32 scalar: the same, not minus one
LOGITS_POSITIONS = "logits_positions"  # int64 (wanted,): whose logits to compute, counted in this run

# What onnxruntime-genai feeds instead; it gets the logits of the last position. A graph whose cache grows is
# fed them, too, with positions where it has that input, and logits_positions as above.
ATTENTION_MASK = "attention_mask"  # int64 (batch, total)
POSITION_IDS = "position_ids"  # int64 (batch, sequence)

# How `present` relates to `past`: the same memory, written in place, or an array of its own, longer by the
# tokens of the run: (batch, KV heads, total, head_dim).
SHARED = "shared"
GROWING = "growing"
CACHES = (SHARED, GROWING)

# Of a matrix that adapters change; left out, they have rank 0 and change nothing.
LORA_PARTS = ("lora_a", "lora_b")  # float32 (columns, rank) and (rank, rows)

PARTS = ("key", "value")  # of the cache of a layer: (batch, KV heads, context, head_dim) each


def lora(matrix: str, part: str) -> str:
    """The input that takes A or B of an adapter for a matrix: `layers.3.qkv.lora_a`."""
    return f"{matrix}.{part}"


def past(layer: int | str, part: str) -> str:
    """The input that reads the keys or values of a layer; a `layer` of "%d" gives genai's pattern."""
    return f"past_key_values.{layer}.{part}"


def present(layer: int | str, part: str) -> str:
    """The output that has the tokens of this run appended; edgert binds it to the memory of `past`."""
    return f"present.{layer}.{part}"


@dataclass(frozen=True)
class KVKind:
    """One way to cache keys and values.

    `name` in manifests, profiles and options; `stored_as`: NumPy's name for the type of the graph's inputs
    and outputs; `suffix` of the graph's file name; `scaled`: the graph has a scale per channel, found by
    calibration.
    """

    name: str
    stored_as: str
    suffix: str = ""
    scaled: bool = False

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The type as NumPy's own, which help screens have no time to load."""
        import numpy as np

        return np.dtype(self.stored_as)

    @property
    def bytes(self) -> int:
        """Of one number."""
        return self.dtype.itemsize


FP32 = KVKind("fp32", "float32")
INT8 = KVKind("int8", "int8", "-kv8", scaled=True)
KV_KINDS = {kind.name: kind for kind in (FP32, INT8)}  # the most exact first
