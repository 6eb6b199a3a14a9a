"""Export: checkpoint → spec → graph → lowered to a storage form → bundle. Needs the [export] extra."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgert import devices
from edgert.bundle import Bundle
from edgert.errors import CheckpointError, MissingExtra, UsageError

if TYPE_CHECKING:
    from .forms import Recipe
    from .spec import ModelSpec

__all__ = ["DEFAULT_MAX_CONTEXT", "ExportOptions", "Quant", "Via", "export"]

# Rope tables cost 4 × head_dim bytes on disk a position; few small machines hold a longer KV cache.
DEFAULT_MAX_CONTEXT = 32768

Quant = Literal["int8", "fp32"]
Via = Literal["auto", "direct", "optimum"]


@dataclass(frozen=True)
class ExportOptions:
    """How to export. `max_context` in tokens; None is the model's own, at most DEFAULT_MAX_CONTEXT."""

    quant: Quant = "int8"
    device: str | None = None
    max_context: int | None = None
    name: str | None = None
    force: bool = False
    via: Via = "auto"


def export(
    source: Path,
    folder: Path,
    options: ExportOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Bundle:
    """Write a bundle of a Hugging Face folder or GGUF file.

    `progress` is called with weights done and weights in all. Raises CheckpointError, UsageError,
    DeviceError, MissingExtra.
    """
    options = options or ExportOptions()
    require_extra()
    from . import source as sources  # after the check
    from . import writer

    if options.via == "optimum":
        raise UsageError("--via optimum is not built yet: use auto or direct")
    profile = devices.load(options.device or devices.DEFAULT)
    if folder.resolve() in (source.resolve(), *source.resolve().parents):
        raise UsageError(f"{source} lies inside {folder}: export to another place")
    with writer.written_aside(folder, force=options.force) as aside:
        checkpoint = sources.open_checkpoint(source)
        context = _context(options.max_context, checkpoint.spec)
        recipe = _recipe(options.quant, profile)
        plan = writer.Plan(options.name or folder.name, recipe, profile.name, context)
        try:
            manifest = writer.write_bundle(checkpoint, aside, plan, progress or _silent)
        except ValueError as error:
            raise CheckpointError(f"{source}: {error}") from error
    return Bundle(folder, manifest)


def _silent(_done: int, _total: int) -> None:
    """No progress is shown."""


def require_extra() -> None:
    """Raise MissingExtra unless everything that exporting imports is installed."""
    try:
        import gguf  # noqa: F401
        import ml_dtypes  # noqa: F401
        import onnx_ir  # noqa: F401
        import safetensors  # noqa: F401
    except ImportError as error:
        raise MissingExtra("exporting", "export") from error


def _recipe(quant: Quant, profile: devices.DeviceProfile) -> Recipe:
    from . import forms

    return forms.fp32() if quant == "fp32" else forms.int8(profile.matmul)


def _context(asked: int | None, spec: ModelSpec) -> int:
    """LongRoPE's factors for long contexts blunt short ones: they are used only when asked for."""
    if asked is None:
        usual = spec.rope.original_context if spec.rope.long_divisors else spec.max_context
        return min(usual, spec.max_context, DEFAULT_MAX_CONTEXT)
    if not 1 <= asked <= spec.max_context:
        raise UsageError(f"--max-context must be between 1 and the model's {spec.max_context}, not {asked}")
    return asked
