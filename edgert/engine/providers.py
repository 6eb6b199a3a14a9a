"""Providers: which execution providers of ONNX Runtime work here, why others don't, and sessions on them."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import platform
import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata

import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from edgert.bundle.graph_io import KV_KINDS
from edgert.devices import CPU, Provider
from edgert.errors import DeviceError
from edgert.installation import how_to_add

ort.disable_telemetry_events()  # somebody may have imported onnxruntime before us

__all__ = ["CPU", "PLUGINS", "Plugin", "kv_kinds", "memory", "open_session", "ort", "version", "why_not"]

VULKAN = "libvulkan.so.1"
INTEL = (("Linux", "x86_64"), ("Windows", "AMD64"))

# A graph that returns what it is given: opening it opens the provider's device. The bytes are protobuf.
ECHO = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


@dataclass(frozen=True)
class Plugin:
    """A provider that comes in a package of its own, an extra of edgert.

    `memory`: onnxruntime's name for where it computes. `kv`: how its attention can cache keys and values.
    `systems`: those it has wheels for, if few.
    """

    name: str
    extra: str
    memory: str
    kv: tuple[str, ...]
    systems: tuple[tuple[str, str], ...] = ()

    @property
    def package(self) -> str:
        return f"onnxruntime-ep-{self.extra}"


PLUGINS = {
    plugin.name: plugin
    for plugin in (
        # int8 keys with the graph's own scales have no kernel in 0.4.0: attention fails at its first run.
        Plugin("WebGpuExecutionProvider", "webgpu", "webgpu", ("fp32",)),
        # It leaves attention to the CPU provider, so keys and values stay in the processor's memory.
        Plugin("OpenVINOExecutionProvider", "openvino", "cpu", ("fp32", "int8"), INTEL),
    )
}


def memory(provider: str) -> str:
    """Where a provider computes: "cpu", or a device with memory of its own."""
    return PLUGINS[provider].memory if provider in PLUGINS else "cpu"


def kv_kinds(provider: str) -> tuple[str, ...]:
    """How a provider's attention can cache keys and values, the most exact first."""
    return PLUGINS[provider].kv if provider in PLUGINS else tuple(KV_KINDS)


def version(provider: str) -> str:
    """Of the package that a provider comes in."""
    if provider not in PLUGINS:
        return str(ort.__version__)
    try:
        return metadata.version(PLUGINS[provider].package)
    except metadata.PackageNotFoundError:
        return ""


def why_not(provider: str) -> str | None:
    """Why a provider can't be used here, in words that say what to do; None if it can.

    Opens its device to know, which can take a second.
    """
    try:
        open_session(ECHO, ort.SessionOptions(), Provider(provider))
    except DeviceError as error:
        return str(error)
    return None


def open_session(model: str | bytes, options: ort.SessionOptions, provider: Provider) -> ort.InferenceSession:
    """A session on a provider, without onnxruntime's silent retreat to the CPU. Raises DeviceError."""
    plugin = PLUGINS.get(provider.name)
    if plugin is None:
        if provider.name not in ort.get_available_providers():
            raise DeviceError("this onnxruntime lacks it, and no package is known that has it")
        return ort.InferenceSession(
            model, options, [(provider.name, dict(provider.options))], enable_fallback=False
        )
    options.add_provider_for_devices([_device(plugin)], {})
    for key, value in provider.options.items():
        options.add_session_config_entry(f"ep.{provider.name.lower()}.{key}", value)
    try:
        return ort.InferenceSession(model, options, enable_fallback=False)
    except Exception as error:
        if model is ECHO:
            raise DeviceError(_without_device(plugin, _gist(error))) from error
        open_session(ECHO, ort.SessionOptions(), provider)  # raises if it is the device that can't be opened
        raise


def _device(plugin: Plugin) -> ort.OrtEpDevice:
    """The plugin's device, a GPU if it has one. Raises DeviceError."""
    if not _devices(plugin):
        _register(plugin)
    found = _devices(plugin)
    if not found:
        raise DeviceError(_without_device(plugin, "onnxruntime sees no device that it could use"))
    gpus = [device for device in found if device.device.type == ort.OrtHardwareDeviceType.GPU]
    return (gpus or found)[0]


def _devices(plugin: Plugin) -> list[ort.OrtEpDevice]:
    return [device for device in ort.get_ep_devices() if device.ep_name == plugin.name]


@cache  # onnxruntime refuses a second registration
def _register(plugin: Plugin) -> None:
    """Make the plugin's devices known to onnxruntime, for all of the process. Raises DeviceError."""
    if importlib.util.find_spec(f"onnxruntime_ep_{plugin.extra}") is None:
        raise DeviceError(_not_installed(plugin))
    if plugin.memory == "webgpu" and sys.platform == "linux" and not _loads(VULKAN):
        raise DeviceError(
            f"the Vulkan loader {VULKAN} is missing: install your system's package of it, "
            "on Debian and Ubuntu with: apt install libvulkan1 mesa-vulkan-drivers"
        )
    library = importlib.import_module(f"onnxruntime_ep_{plugin.extra}").get_library_path()
    try:
        ort.register_execution_provider_library(plugin.package, library)
    except Fail as error:
        fit = f"the package {plugin.package} doesn't fit onnxruntime {ort.__version__}"
        raise DeviceError(f"{fit}: {_gist(error)}") from error


def _not_installed(plugin: Plugin) -> str:
    here = platform.system(), platform.machine()
    if plugin.systems and here not in plugin.systems:
        known = ", ".join(f"{system} on {machine}" for system, machine in plugin.systems)
        return f"the package {plugin.package} exists for {known} only, this is {here[0]} on {here[1]}"
    return f"the package {plugin.package} isn't installed: {how_to_add(plugin.extra)}"


def _without_device(plugin: Plugin, reason: str) -> str:
    """A reason with what a user can do about it: mostly a GPU's driver is missing."""
    if plugin.memory == "webgpu" and sys.platform == "linux" and not reason.startswith("Invalid"):
        reason += "; its driver must have Vulkan, on Debian and Ubuntu: apt install mesa-vulkan-drivers"
    return f"{reason}; --device laptop-cpu does without"


def _gist(error: Exception) -> str:
    """The last sentence of onnxruntime's first line; before it stand places in its source and conditions."""
    return re.sub(r".*(?: :|\)|was false\.) ", "", str(error).strip().splitlines()[0])


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
