"""Adapters: LoRAs that lie in a bundle beside its base, read as the graph's inputs."""

from __future__ import annotations

from collections.abc import Mapping

from edgert.bundle import Bundle
from edgert.engine.graph_session import OrtValue
from edgert.engine.providers import ort
from edgert.errors import BundleError, UsageError

NO_ADAPTER: Mapping[str, OrtValue] = {}


def read_adapter(bundle: Bundle, name: str) -> Mapping[str, OrtValue]:
    """What the graph takes for an adapter, by input. Raises UsageError if there is none of that name,
    BundleError if its file is damaged.
    """
    adapters = bundle.manifest.adapters
    if name not in adapters:
        there = f"it has {', '.join(adapters)}" if adapters else "it has none"
        raise UsageError(f"{bundle.folder}: no adapter {name!r}; {there}")
    path = bundle.path(adapters[name].file)
    try:
        found: Mapping[str, OrtValue] = ort.AdapterFormat.read_adapter(str(path)).get_parameters()
    except Exception as error:
        raise BundleError(f"{path}: damaged ({str(error).splitlines()[0]}); export it again") from error
    return found
