"""Session: a bundle's graph opened in ONNX Runtime the way a device profile says. Knows no tokens."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
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

VERSION: str = ort.__version__
InferenceSession: TypeAlias = ort.InferenceSession
OrtValue: TypeAlias = ort.OrtValue
Binding: TypeAlias = ort.IOBinding

SEVERITY_ERROR = 3
CPU = "CPUExecutionProvider"


class Session:
    """An ONNX Runtime session of one graph; `threads` is what it computes with.

    `packed`: a copy of the graph that `pack` made on this machine, to run instead. Raises DeviceError,
    BundleError.
    """

    def __init__(
        self,
        bundle: Bundle,
        profile: devices.DeviceProfile,
        graph: str | None = None,
        packed: Path | None = None,
    ) -> None:
        path = packed or bundle.path(graph or bundle.graph())
        self.threads = profile.threads or devices.physical_threads().count
        if profile.provider not in ort.get_available_providers():
            raise DeviceError(
                f"device '{profile.name}' needs {profile.provider}, which this onnxruntime lacks"
            )
        options = session_options(self.threads, profile.spin)
        if packed:  # it was optimized before it was saved
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = ort.InferenceSession(str(path), options, providers=[profile.provider])
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


def pack(bundle: Bundle, graph: str, target: Path) -> None:
    """Save a graph as `target`, optimized for this machine, its weights as the kernels here want them in
    `target`.data, from where a session maps them. Raises BundleError.
    """
    options = session_options(threads=1, spin=False)
    options.optimized_model_filepath = str(target)
    entries = {
        "session.save_external_prepacked_constant_initializers": "1",
        "session.optimized_model_external_initializers_file_name": f"{target.name}.data",
        "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
    }
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    try:
        ort.InferenceSession(str(bundle.path(graph)), options, providers=[CPU])
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise BundleError(f"{bundle.path(graph)}: onnxruntime can't pack it: {reason}") from error


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
