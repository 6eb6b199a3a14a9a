"""MemoryPlan: what a bundle takes on a device, told from its manifest before anything is loaded."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

from edgert import devices
from edgert.bundle import GraphFacts, Manifest, ModelFacts, Quantization
from edgert.bundle.graph_io import GROWING, KV_KINDS
from edgert.engine import attention, promises
from edgert.errors import DoesNotFit

# Measured on Linux, x86-64: the interpreter with NumPy and ONNX Runtime, a tokenizer with nothing in it,
# and an entry of its vocabulary with its merges.
RUNTIME, TOKENIZER, TOKENIZER_ENTRY = 75 << 20, 6 << 20, 490

# Bytes that ONNX Runtime's packed layouts keep per block beside the codes: scales and sums of codes.
PACKED_BLOCK = {("x86_64", 8): 8, ("x86_64", 4): 8, ("arm64", 8): 12, ("arm64", 4): 4}
STORED_SCALE = 4

# Where a cache grows: past, present, and what onnxruntime keeps of shorter ones and of the scores between
# them. SmolLM2 took 3.6 times its keys and values at 1,024 tokens, 3.7 times at 2,048.
GROWING_COPIES = 4


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes, for `conversations` of `context` tokens each.

    `weights` are packed copies in memory, or mapped from a prepared copy, and then `mapped`. While loading,
    `packing` comes on top of runtime and weights, and so does `reading`: pages of files, which the system can
    drop. `adapters`: all that lie beside the base; each is read when it is first chosen, and kept.
    `scores_per_token`: the scores that attention keeps while a chunk is read, and ALiBi's bias on them, per
    token of context.
    """

    context: int
    conversations: int
    runtime: int
    weights: int
    kv_per_token: int
    scratch: int
    packing: int
    reading: int
    mapped: bool
    adapters: int = 0
    scores_per_token: int = 0

    @property
    def kv(self) -> int:
        return self.kv_per_token * self.context * self.conversations

    @property
    def scores(self) -> int:
        """Prompts are read one at a time, so further conversations take none."""
        return self.scores_per_token * self.context

    @property
    def total(self) -> int:
        """What must be there while answering."""
        return self.runtime + self.weights + self.kv + self.scratch + self.adapters + self.scores

    @property
    def needed(self) -> int:
        """What must be there, loading included."""
        return max(self.total, self.runtime + self.weights + self.packing)

    @property
    def peak(self) -> int:
        """Most that is ever resident."""
        return max(self.total, self.runtime + self.weights + self.packing + self.reading)

    def longest_context(self, memory: int, limit: int) -> int:
        """Most tokens, up to `limit`, that fit into so many bytes; 0 if not even the weights do."""
        room = memory - (self.total - self.kv - self.scores)
        if self.runtime + self.weights + self.packing > memory:
            return 0
        per_token = self.kv_per_token * self.conversations + self.scores_per_token
        return max(0, min(limit, room // per_token))

    def further_conversations(self, memory: int) -> int:
        """How many more fit into so many bytes: each costs its keys and values and nothing else."""
        return max(0, memory - self.needed) // (self.kv_per_token * self.context)


def plan(
    manifest: Manifest,
    graph: GraphFacts,
    profile: devices.DeviceProfile,
    context: int,
    conversations: int = 1,
    *,
    prepared: bool = False,
    machine: devices.Hardware | None = None,
) -> MemoryPlan:
    """What a graph of a bundle takes on a device: on this `machine`, or on one the profile was made for."""
    model, table = manifest.model, manifest.model.vocab_size * manifest.model.hidden_size
    elsewhere = "arm64" if set(profile.processor) == {"arm64"} else "x86_64"
    architecture = machine.architecture if machine else elsewhere
    packed = _packed(manifest, graph, architecture)
    # Whole products turn each matrix that is stored rows first before they pack it, and onnxruntime keeps the
    # largest to work in.
    upright = manifest.quantization.columns_first and not model.tied_embeddings
    turned = table if graph.form == "rows8" and not upright else 0
    stored = int(table * _table_bits(manifest.quantization) / 8)  # mapped while it is packed
    copied = _copied(manifest, packed, machine) if graph.form == "rows8" else 0
    keeps = attention.keeps_scores(model, graph, profile, context, architecture)
    return MemoryPlan(
        context=context,
        conversations=conversations,
        runtime=RUNTIME + TOKENIZER + TOKENIZER_ENTRY * model.vocab_size,
        weights=packed,
        kv_per_token=kv_per_token(model, graph.kv) * (GROWING_COPIES if graph.cache == GROWING else 1),
        scratch=_scratch(model, profile.prefill_chunk) + turned,
        packing=0 if prepared else turned + copied,
        reading=5 * stored // 2 if prepared else stored,
        mapped=prepared,
        adapters=sum(manifest.files[adapter.file].size for adapter in manifest.adapters.values()),
        scores_per_token=(graph.attention_biases + keeps) * attention.scores(model, profile.prefill_chunk, 1),
    )


def kv_per_token(model: ModelFacts, kv: str) -> int:
    """Bytes of the keys and values of a token."""
    return 2 * model.num_layers * model.num_kv_heads * model.head_dim * KV_KINDS[kv].bytes


def check_fits(wanted: MemoryPlan, limit: int, what: str) -> None:
    """Raise DoesNotFit, with the numbers and the ways out, unless the memory that is free suffices."""
    free = promises.free()
    if wanted.needed <= free:
        return
    longest = wanted.longest_context(free, limit)
    shorter = f"--context {longest} fits" if longest else "no context is short enough"
    promised = promises.promised()
    others = f" beside {_mb(promised)} that open models may still take" if promised else ""
    adapters = f"adapters {_mb(wanted.adapters)}, " if wanted.adapters else ""
    raise DoesNotFit(
        f"{what} needs {_mb(wanted.needed)} (weights {_mb(wanted.weights)}, keys and values "
        f"{_mb(wanted.kv)} for {_conversations(wanted)}{wanted.context} tokens, {adapters}runtime and "
        f"scratch {_mb(wanted.runtime + wanted.scratch + wanted.scores)}, packing while it loads "
        f"{_mb(wanted.packing)}) and {_mb(free)} are free{others}: {shorter}, a smaller --quant at "
        "export takes less, --force loads it all the same"
    )


def give_back() -> None:
    """Return what loading has freed to the system, where the C library keeps it otherwise (glibc).

    Parsing the tokenizer of a Qwen leaves 115 MB.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim:
            trim(0)


def _packed(manifest: Manifest, graph: GraphFacts, architecture: str) -> int:
    """Bytes of all matrices that are multiplied by; an untied embedding is only looked up, in the file."""
    model, quantization = manifest.model, manifest.quantization
    looked_up = 0 if model.tied_embeddings else model.vocab_size * model.hidden_size
    weights = model.parameters - looked_up
    if graph.form == "rows8":
        return weights
    stored = int(weights * _bits(quantization) / 8)
    if graph.form == "fp32":
        return stored
    block, bits = _block(quantization), 8 if graph.form == "blocks8" else 4
    return stored + weights // block * (PACKED_BLOCK[architecture, bits] - STORED_SCALE)


def _copied(manifest: Manifest, packed: int, machine: devices.Hardware | None) -> int:
    """Codes that blocks share are copied before they are packed. Where signed products saturate all are, each
    only until it is packed: about half of them at once (measured).
    """
    if _shared(manifest):
        return packed
    return packed // 2 if machine is not None and machine.saturates else 0


def _shared(manifest: Manifest) -> bool:
    return any(facts.form == "blocks8" for facts in manifest.graphs.values())


def _block(quantization: Quantization) -> int:
    sizes = quantization.block_size.values()
    return min(sizes) if sizes else 64


def _bits(quantization: Quantization) -> float:
    return 32.0 if quantization.scheme == "fp32" else quantization.bits_per_weight


def _table_bits(quantization: Quantization) -> float:
    """The largest matrix is the head; a 4-bit bundle may have 8 for it."""
    if {"head", "embedding"} & quantization.exceptions.keys():
        return 8 + 8 * STORED_SCALE / _block(quantization)
    return _bits(quantization)


def _scratch(model: ModelFacts, chunk: int) -> int:
    """Activations of a prefill chunk: of the MLP, of attention, of the residual stream; and the logits."""
    qkv = (model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    wide = 3 * model.intermediate_size + 2 * qkv + 4 * model.hidden_size
    return 4 * (chunk * wide + 2 * model.vocab_size)


def _conversations(wanted: MemoryPlan) -> str:
    return "" if wanted.conversations == 1 else f"{wanted.conversations} conversations of "


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
