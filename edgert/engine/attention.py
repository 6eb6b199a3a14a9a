"""Attention: which of ONNX Runtime's two ways over fp32 keys and values a session takes.

Flash attention computes scores tile by tile, also those that the causal mask hides. The other way keeps all
scores of a chunk in memory and multiplies whole matrices: up to 1.9 times as quick for the first tokens of a
prompt, as quick for one token, slower for many heads at a great depth (`benchmarks/attention.py`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from edgert import devices
from edgert.bundle import GraphFacts, ModelFacts
from edgert.bundle.graph_io import FP32
from edgert.devices import DeviceProfile

VARIABLE = "ORT_GQA_DISABLE_FLASH_ATTENTION"  # read when a session makes its kernels
MOST_SCORES = 64 << 20  # bytes: with more, flash attention was quicker where the context is full
_environment = threading.Lock()


def scores(model: ModelFacts, chunk: int, context: int) -> int:
    """Bytes of the scores that a chunk's last tokens take, at most."""
    return 4 * model.num_heads * chunk * context


def keeps_scores(
    model: ModelFacts, graph: GraphFacts, profile: DeviceProfile, context: int, architecture: str
) -> bool:
    """Whether all scores should be kept. On x86 only: on Arm one token was seen to take twice as long then.

    With more threads than heads only flash attention keeps all of them busy while one token decodes.
    """
    if not (profile.on_cpu and architecture == "x86_64" and graph.kv == FP32.name):
        return False
    threads = profile.threads or devices.physical_threads().count
    return threads <= model.num_heads and scores(model, profile.prefill_chunk, context) <= MOST_SCORES


@contextmanager
def chosen(*, keep_scores: bool) -> Iterator[None]:
    """While a session is made. ONNX Runtime has no option for it, only a variable, which the user may have
    set already: that one counts.
    """
    with _environment:
        if not keep_scores or VARIABLE in os.environ:
            yield
            return
        os.environ[VARIABLE] = "1"
        try:
            yield
        finally:
            del os.environ[VARIABLE]
