"""The Optimum road: checkpoints of families that the exporter doesn't build itself become bundles, too.

Optimum traces the model to an fp32 graph; passes over that graph give it edgert's inputs and outputs,
attention over a cache that is written in place wherever that computes the same, and its matrices in a
device's form. Needs the extra [optimum], which brings torch and transformers; only the process that
traces imports them.
"""

from __future__ import annotations

import importlib.util

from edgert.errors import MissingExtra

NEEDED = ("optimum.exporters.onnx", "torch", "transformers")


def is_installed() -> bool:
    """Whether the extra is there; nothing of it is imported but the package `optimum` itself."""
    try:
        return all(importlib.util.find_spec(name) for name in NEEDED)
    except ModuleNotFoundError:  # a parent package
        return False


def require_extra(purpose: str) -> None:
    """Raise MissingExtra unless the extra is installed."""
    if not is_installed():
        raise MissingExtra(purpose, "optimum")
