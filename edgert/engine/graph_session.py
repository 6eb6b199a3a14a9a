"""GraphSession: a bundle's graph opened in ONNX Runtime the way a device profile says. Knows no tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgert import devices
from edgert.bundle import Bundle
from edgert.engine import attention, providers
from edgert.engine.providers import ort
from edgert.errors import BundleError, DeviceError

InferenceSession: TypeAlias = ort.InferenceSession
OrtValue: TypeAlias = ort.OrtValue
RunOptions: TypeAlias = ort.RunOptions

SEVERITY_ERROR = 3


class GraphSession:
    """An ONNX Runtime session of one graph; `threads` is what it computes with.

    `packed`: a copy of the graph that `pack` made on this machine, to run instead. `keep_scores`: how it
    attends, see `attention`. `in_turn`: with another session, which wants the processors when this one is
    done. Raises DeviceError, BundleError.
    """

    def __init__(
        self,
        bundle: Bundle,
        profile: devices.DeviceProfile,
        graph: str | None = None,
        packed: Path | None = None,
        *,
        keep_scores: bool = False,
        in_turn: bool = False,
    ) -> None:
        graph = graph or bundle.graph()
        path = packed or _file(bundle, graph)
        self.threads = profile.threads or devices.physical_threads().count
        self._provider = profile.provider.name
        self._memory = providers.memory(profile.provider.name)
        self._copies = profile.provider.name != providers.CPU
        kinds = providers.kv_kinds(profile.provider.name)
        if bundle.manifest.graphs[graph].kv not in kinds:
            raise DeviceError(
                f"device '{profile.name}' caches keys and values in {kinds[0]} only: --kv {kinds[0]}"
            )
        self._always: Mapping[str, OrtValue] = {}
        options = session_options(self.threads, profile.spin)
        if in_turn:  # else its threads wait busily for milliseconds: the other's runs took twice as long
            options.add_session_config_entry("session.force_spinning_stop", "1")
        if packed:  # it was optimized before it was saved
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            with attention.chosen(keep_scores=keep_scores):
                self._session = providers.open_session(str(path), options, profile.provider)
        except DeviceError as error:
            raise DeviceError(f"device '{profile.name}' needs {profile.provider.name}: {error}") from error
        except Exception as error:
            raise BundleError(
                f"{path}: onnxruntime can't load it: {error}{_advice(bundle, packed)}"
            ) from error

    @cached_property
    def inputs(self) -> Mapping[str, Sequence[int | str]]:
        """The shape of each input of the graph, by name; free dimensions are names."""
        return {value.name: value.shape for value in self._session.get_inputs()}

    @property
    def on_host(self) -> bool:
        """Whether it computes in the processor's memory."""
        return self._memory == "cpu"

    def buffer(self, shape: Iterable[int], dtype: np.dtype[Any]) -> OrtValue:
        """Memory where the session computes: runs read and write it there and copy nothing."""
        if self.on_host:
            return as_value(np.zeros(tuple(shape), dtype))
        return self._session.create_ortvalue_from_shape_and_type(list(shape), dtype, self._memory)

    def feed_always(self, inputs: Mapping[str, OrtValue]) -> None:
        """Values that every binding from now on reads, too, instead of those given before."""
        self._always = inputs

    def bind(self, inputs: Mapping[str, OrtValue], outputs: Mapping[str, OrtValue]) -> Binding:
        """A binding of named values, to run as often as wanted."""
        binding = Binding(self._session.io_binding(), self._copies)
        try:
            for name, value in {**self._always, **inputs}.items():
                binding.read(name, value)
            for name, value in outputs.items():
                binding.write(name, value)
        except RuntimeError as error:
            raise BundleError(f"graph and manifest disagree: {str(error).splitlines()[0]}") from error
        return binding

    def run(self, binding: Binding, stop: RunOptions | None = None) -> None:
        """Compute once. Setting `stop.terminate` from another thread ends it within milliseconds: it raises
        Stopped then. Raises DeviceError where it fails.
        """
        try:
            self._session.run_with_iobinding(binding.current(), stop)
        except Exception as error:
            if stop is not None and stop.terminate:
                raise Stopped from error
            raise DeviceError(f"{self._provider} fails: {str(error).splitlines()[0]}") from error


class Stopped(Exception):
    """A run that was told to terminate."""


class Binding:
    """Named values that runs read and write where they are. A provider that `copies` gets what it wants of
    the processor's memory before each run.
    """

    def __init__(self, binding: ort.IOBinding, copies: bool) -> None:
        self._binding = binding
        self._copies = copies
        self._host: dict[str, OrtValue] = {}
        self._outputs: dict[str, None] = {}  # names, in the order of binding
        self._alive: dict[str, OrtValue] = {}  # onnxruntime reads NumPy's memory without keeping it

    def read(self, name: str, value: OrtValue) -> None:
        """Take an input from a value, now and at later runs."""
        self._binding.bind_ortvalue_input(name, value)
        self._alive[name] = value
        if self._copies and value.device_name() == "cpu":
            self._host[name] = value

    def write(self, name: str, value: OrtValue) -> None:
        """Put an output into a value."""
        self._binding.bind_ortvalue_output(name, value)
        self._outputs[name] = None
        self._alive[name] = value

    def allocate(self, name: str) -> None:
        """Let the run make an output, in the processor's memory: `allocated` has it afterwards."""
        self._binding.bind_output(name, "cpu")
        self._outputs[name] = None

    def allocated(self) -> dict[str, OrtValue]:
        """All outputs of the last run, by name."""
        return dict(zip(self._outputs, self._binding.get_outputs(), strict=True))

    def current(self) -> ort.IOBinding:
        """With inputs as they are now: onnxruntime copies for a provider when it binds, not when it runs."""
        for name, value in self._host.items():
            self._binding.bind_ortvalue_input(name, value)
        return self._binding


def _advice(bundle: Bundle, packed: Path | None) -> str:
    """What helps where a graph can't be loaded; weights that there are only once are not to be removed."""
    if not bundle.replaced:
        return f"; remove {packed.parent} and run `edgert prepare` again" if packed else ""
    own = "" if packed else "; its weights were removed by `edgert prepare --replace`"
    return f"{own}; if this stays so, export or pull the bundle again"


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
        ort.InferenceSession(str(_file(bundle, graph)), options, providers=[providers.CPU])
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise BundleError(f"{_file(bundle, graph)}: onnxruntime can't pack it: {reason}") from error


def _file(bundle: Bundle, graph: str) -> Path:
    return bundle.graph_path(graph, saturates=devices.here().saturates)


def as_value(array: npt.NDArray[Any]) -> OrtValue:
    """An OrtValue over the array's own memory: writing the array changes what the graph reads."""
    return ort.OrtValue.ortvalue_from_numpy(array)


def session_options(threads: int, spin: bool) -> ort.SessionOptions:
    """Options that every session of edgert has; `threads` 0 leaves the number to onnxruntime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = SEVERITY_ERROR
    options.enable_mem_pattern = False  # prefill chunks vary in length
    if devices.here().saturates:
        # Signed products that would saturate are made exact at load, slowly. Unsigned graphs have none.
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    return options
