"""Export: checkpoint → spec → graph → lowered to a storage form → bundle. Needs the [export] extra."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from edgert import devices
from edgert.bundle import ADAPTER_NAME, Bundle, GenerationDefaults, Manifest
from edgert.bundle.graph_io import FP32, KV_KINDS
from edgert.errors import CheckpointError, MissingExtra, UsageError

__all__ = ["DEFAULT_MAX_CONTEXT", "ExportOptions", "Quant", "Via", "export", "previews"]

# Rope tables cost 4 × head_dim bytes on disk per position; few small machines hold a longer KV cache.
DEFAULT_MAX_CONTEXT = 32768

Quant = Literal["int8", "int4", "mixed", "fp32"]
Via = Literal["auto", "direct", "optimum"]
Progress = Callable[[str, int, int], None]  # what is being done, steps done, steps in all


@dataclass(frozen=True)
class ExportOptions:
    """How to export. `devices` are profiles by name or path, none means the default; several share weights.

    `max_context` in tokens; None is the model's own, at most DEFAULT_MAX_CONTEXT.

    `block_size`: weights per scale, instead of the device's own sizes; smaller is more accurate and slower.
    `kv` "int8" adds a graph that caches keys and values in 8 bits, and makes it the default; None
    adds it where a device wants it. `target_size`, bytes of all matrices, and `max_kl`, nats per token, bound
    what `mixed` may take; `max_kl` makes any other export fail above it.
    `adapters`: folders of PEFT LoRAs, merged into the checkpoint one after the other.
    `separate_adapters`: others by the names to choose them by, which stay beside it in the bundle.
    `repetition_penalty`: the bundle's default, instead of the source's.
    `calibrate` False rounds every weight to the nearest step, which is quicker and loses more.
    `calibration`: a text instead of the built-in sample. `verify`: measure the bundle at the end.
    """

    quant: Quant = "int8"
    devices: tuple[str, ...] = ()
    max_context: int | None = None
    name: str | None = None
    force: bool = False
    via: Via = "auto"
    block_size: int | None = None
    kv: str | None = None
    target_size: int | None = None
    max_kl: float | None = None
    calibrate: bool = True
    calibration: Path | None = None
    verify: bool = True
    adapters: tuple[Path, ...] = ()
    separate_adapters: Mapping[str, Path] = field(default_factory=dict)
    repetition_penalty: float | None = None

    def __post_init__(self) -> None:
        if self.quant == "mixed" and self.target_size is None and self.max_kl is None:
            raise UsageError("mixed needs a bound: --target-size 1.2GB or --max-kl 0.05")
        if self.target_size is not None and self.quant != "mixed":
            raise UsageError(f"--target-size is for --quant mixed, not {self.quant}")
        if self.max_kl is not None and not self.max_kl > 0:
            raise UsageError(f"--max-kl must be above 0, not {self.max_kl}")
        if self.max_kl is not None and not self.verify:
            raise UsageError("--max-kl needs the measurement that --no-verify leaves out")
        for name in self.separate_adapters:
            if not re.fullmatch(ADAPTER_NAME, name):
                raise UsageError(f"{name!r} is no name for an adapter: letters, digits, - and _ make one")
        if self.kv not in (None, *KV_KINDS):
            raise UsageError(f"--kv must be {' or '.join(KV_KINDS)}, not {self.kv}")
        if self.max_kl is not None and self.quant == "fp32" and self.kv in (None, FP32.name):
            raise UsageError("--max-kl is for quantized bundles: fp32 is what they are measured against")
        if self.block_size not in (None, *devices.BLOCK_SIZES):
            raise UsageError(f"--block-size must be 16, 32, 64, 128 or 256, not {self.block_size}")

    def defaults(self, source: GenerationDefaults) -> GenerationDefaults:
        """How the bundle answers unless it is told otherwise."""
        if self.repetition_penalty is None:
            return source
        return replace(source, repetition_penalty=self.repetition_penalty)


def export(
    source: Path, folder: Path, options: ExportOptions | None = None, progress: Progress | None = None
) -> Bundle:
    """Write a bundle of a Hugging Face folder or GGUF file.

    Raises CheckpointError, UsageError, DeviceError, MissingExtra, and FidelityError above `max_kl`.
    """
    options = options or ExportOptions()
    require_extra()
    from .destination import destination  # after the check
    from .road import open_road
    from .threads import product_threads

    profiles = tuple(devices.load(name) for name in dict.fromkeys(options.devices or (devices.DEFAULT,)))
    place = destination(folder)
    for read in (source, *options.adapters, *options.separate_adapters.values()):
        if place.real in (read.resolve(), *read.resolve().parents):
            raise UsageError(f"{read} lies inside {folder}: export to another place")
    with place.written_aside(force=options.force) as aside:
        name = options.name or folder.name or place.real.name
        job = open_road(source, options.via)(options, profiles, name, progress or _silent)
        try:
            with product_threads(1):
                manifest = job.run(aside)
        except UsageError:
            raise  # a ValueError, too, and about the options
        except ValueError as error:
            raise CheckpointError(f"{source}: {error}") from error
    return Bundle(folder, manifest)


def previews(source: Path, choices: Sequence[ExportOptions]) -> list[Manifest]:
    """The manifests that exports of a checkpoint would have, one for each of `choices`.

    Its headers are read once, for the road of the first. Raises as `export`.
    """
    require_extra()
    from .road import open_road  # after the check

    opened = open_road(source, choices[0].via)
    manifests = []
    for options in choices:
        profiles = tuple(devices.load(name) for name in options.devices or (devices.DEFAULT,))
        manifests.append(opened(options, profiles, options.name or source.name, _silent).preview())
    return manifests


def _silent(_phase: str, _done: int, _total: int) -> None:
    """No progress is shown."""


def require_extra() -> None:
    """Raise MissingExtra unless everything that exporting imports is installed."""
    try:
        import gguf  # noqa: F401
        import ml_dtypes  # noqa: F401
        import onnx_ir  # noqa: F401
        import safetensors  # noqa: F401
        import threadpoolctl  # noqa: F401
    except ImportError as error:
        raise MissingExtra("exporting", "export") from error
