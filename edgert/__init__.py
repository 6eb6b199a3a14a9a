"""edgert: chat with your own distilled student on a small machine.

>>> model = edgert.load("bundle/")
>>> print(model.generate("Why is the sky blue?", max_tokens=100).text)
"""

from edgert.answer import Chunk, Reply, Timings
from edgert.bundle import Bundle, open_bundle
from edgert.errors import (
    BundleError,
    CheckpointError,
    DeviceError,
    DoesNotFit,
    EdgertError,
    EdgertWarning,
    FidelityError,
    MissingExtra,
    Overtaken,
    PromptTooLong,
    PullError,
    UsageError,
)
from edgert.model import Model, load
from edgert.text.sampler import SampledToken, Sampling

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "BundleError",
    "CheckpointError",
    "Chunk",
    "DeviceError",
    "DoesNotFit",
    "EdgertError",
    "EdgertWarning",
    "FidelityError",
    "MissingExtra",
    "Model",
    "Overtaken",
    "PromptTooLong",
    "PullError",
    "Reply",
    "SampledToken",
    "Sampling",
    "Timings",
    "UsageError",
    "load",
    "open_bundle",
]
