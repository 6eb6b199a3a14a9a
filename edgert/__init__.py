"""edgert: chat with your own distilled student on a small machine.

>>> model = edgert.load("bundle/")
>>> print(model.generate("Why is the sky blue?", max_tokens=100).text)
"""

import os
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if find_spec("edgert.devices") is None:
    from edgert.installation import why_incomplete

    raise ImportError(why_incomplete(), name="edgert", path=__file__)

from edgert.errors import (
    BundleError,
    CheckpointError,
    DeviceError,
    DoesNotFit,
    EdgertError,
    EdgertWarning,
    FidelityError,
    MissingExtra,
    PromptTooLong,
    PullError,
    UsageError,
)

if TYPE_CHECKING:
    from edgert.answering.conversation import Conversation
    from edgert.answering.reply import Chunk, Reply, Timings
    from edgert.answering.stream import AsyncStream, Stream
    from edgert.bundle import Bundle, open_bundle
    from edgert.model import Model, load
    from edgert.text.calls import ToolCall
    from edgert.text.sampler import SampledToken, Sampling
    from edgert.text.tools import Tool

__version__ = "0.1.0"

# onnxruntime's official wheels report telemetry unless this is set before their first import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# Where those names are that bring numpy or onnxruntime: at their first use, so that help screens are quick.
_LATER = {
    "AsyncStream": "edgert.answering.stream",
    "Bundle": "edgert.bundle",
    "Chunk": "edgert.answering.reply",
    "Conversation": "edgert.answering.conversation",
    "Model": "edgert.model",
    "Reply": "edgert.answering.reply",
    "SampledToken": "edgert.text.sampler",
    "Sampling": "edgert.text.sampler",
    "Stream": "edgert.answering.stream",
    "Timings": "edgert.answering.reply",
    "Tool": "edgert.text.tools",
    "ToolCall": "edgert.text.calls",
    "load": "edgert.model",
    "open_bundle": "edgert.bundle",
}

__all__ = [
    "AsyncStream",
    "Bundle",
    "BundleError",
    "CheckpointError",
    "Chunk",
    "Conversation",
    "DeviceError",
    "DoesNotFit",
    "EdgertError",
    "EdgertWarning",
    "FidelityError",
    "MissingExtra",
    "Model",
    "PromptTooLong",
    "PullError",
    "Reply",
    "SampledToken",
    "Sampling",
    "Stream",
    "Timings",
    "Tool",
    "ToolCall",
    "UsageError",
    "load",
    "open_bundle",
]


if not TYPE_CHECKING:  # a type checker would take any name for a public one

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module 'edgert' has no attribute '{name}'")
        return getattr(import_module(_LATER[name]), name)
