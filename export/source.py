"""Where a checkpoint may come from: a Hugging Face folder or a GGUF file."""

from __future__ import annotations

from pathlib import Path

from edgert.errors import CheckpointError

from . import gguf, huggingface
from .checkpoint import Checkpoint, check_tensors


def open_checkpoint(source: Path) -> Checkpoint:
    """Open a checkpoint and check its tensors against its config. Raises CheckpointError."""
    if source.is_dir():
        checkpoint = huggingface.open_folder(source)
    elif source.is_file() and source.suffix == ".gguf":
        checkpoint = gguf.open_file(source)
    elif source.exists():
        raise CheckpointError(f"{source}: expected a Hugging Face folder or a .gguf file")
    else:
        raise CheckpointError(f"{source}: no such file or folder")
    check_tensors(checkpoint.spec, {name: t.shape for name, t in checkpoint.tensors.items()}, source)
    return checkpoint
