"""Saving a text: written aside and renamed, so that an older file is never half overwritten."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from edgert.errors import UsageError


def save_text(path: Path, text: str) -> None:
    """Write UTF-8; what Unicode can't encode becomes '?'. Raises UsageError naming the path."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):
            aside.unlink()
        raise UsageError(f"can't save to {path}: {error}") from error
