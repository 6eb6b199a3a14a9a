"""Saving: what is written goes aside and is renamed, so that an older file is never half overwritten."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from edgert.errors import UsageError


def save_text(path: Path, text: str) -> None:
    """Write UTF-8; what Unicode can't encode becomes '?'. Raises UsageError naming the path."""
    with _aside(path, "w", encoding="utf-8", errors="replace") as file:
        file.write(text)


def save_lines(path: Path, lines: Iterable[str]) -> None:
    """Write UTF-8, line by line as they are made; half a surrogate pair becomes its escape, as in JSON.

    Raises UsageError naming the path.
    """
    with _aside(path, "wb") as file:
        for line in lines:
            file.write(f"{line}\n".encode("utf-8", "backslashreplace"))


def save_bytes(path: Path, content: bytes) -> None:
    """Write them as they are. Raises UsageError naming the path."""
    with _aside(path, "wb") as file:
        file.write(content)


@contextlib.contextmanager
def _aside(path: Path, mode: str, **how: str) -> Iterator[IO[Any]]:
    """A file that becomes `path` once the block has succeeded, and is gone if it has not."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open(mode, **how) as file:  # type: ignore[call-overload]  # the mode is no literal
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError, ValueError):
            aside.unlink()
        if isinstance(error, OSError | ValueError):
            raise UsageError(f"can't save to {path}: {error}") from error
        raise
