"""Session: a bundle's graph opened in ONNX Runtime the way a device profile says. Knows no tokens."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

# The official wheels report telemetry unless this is set before their first import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime as ort

from edgert import devices
from edgert.bundle import Bundle
from edgert.errors import BundleError, DeviceError

ort.disable_telemetry_events()  # somebody may have imported onnxruntime before us

InferenceSession: TypeAlias = ort.InferenceSession
OrtValue: TypeAlias = ort.OrtValue
Binding: TypeAlias = ort.IOBinding

SEVERITY_ERROR = 3


class Session:
    """An ONNX Runtime session of one graph; `threads` is what it computes with."""

    def __init__(self, bundle: Bundle, profile: devices.DeviceProfile, graph: str | None = None) -> None:
        path = bundle.path(graph or bundle.graph())
        self.threads = profile.threads or devices.physical_threads().count
        if profile.provider not in ort.get_available_providers():
            raise DeviceError(
                f"device '{profile.name}' needs {profile.provider}, which this onnxruntime lacks"
            )
        try:
            self._session = ort.InferenceSession(
                str(path),
                session_options(self.threads, profile.spin),
                providers=[profile.provider],
            )
        except Exception as error:
            raise BundleError(f"{path}: onnxruntime can't load it: {error}") from error

    def bind(self, inputs: dict[str, OrtValue], outputs: dict[str, OrtValue]) -> Binding:
        """A binding of named values; buffers given here are read and written in place at each run."""
        binding = self._session.io_binding()
        try:
            for name, value in inputs.items():
                binding.bind_ortvalue_input(name, value)
            for name, value in outputs.items():
                binding.bind_ortvalue_output(name, value)
        except RuntimeError as error:
            raise BundleError(f"graph and manifest disagree: {str(error).splitlines()[0]}") from error
        return binding

    def run(self, binding: Binding) -> None:
        self._session.run_with_iobinding(binding)


def share(array: npt.NDArray[Any]) -> OrtValue:
    """An OrtValue over the array's own memory (CPU): writing the array changes what the graph reads."""
    return ort.OrtValue.ortvalue_from_numpy(array)


def zeros(shape: Iterable[int], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """Zeroed memory that the system commits page by page as it is first written."""
    return np.zeros(tuple(shape), dtype)


def session_options(threads: int, spin: bool) -> ort.SessionOptions:
    """Options that every session of edgert has; `threads` 0 leaves the number to onnxruntime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = SEVERITY_ERROR
    options.enable_mem_pattern = False  # prefill chunks vary in length
    # Integer products that would saturate on x86 without VNNI take the exact, slower kernel.
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    return options
