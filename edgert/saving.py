"""Saving: what is written goes aside and is renamed, so that an older file is never half overwritten."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from edgert.errors import UsageError


def save_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write UTF-8; what Unicode can't encode becomes '?'. `private`: for its owner alone, where the system
    has modes. Raises UsageError naming the path.
    """
    with _aside(path, "w", private, encoding="utf-8", errors="replace") as file:
        file.write(text)


def save_lines(path: Path, lines: Iterable[str]) -> None:
    """Write UTF-8, line by line as they are made; half a surrogate pair becomes its escape, as in JSON.

    Raises UsageError naming the path.
    """
    with _aside(path, "wb") as file:
        for line in lines:
            file.write(f"{line}\n".encode("utf-8", "backslashreplace"))


def save_bytes(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write them as they are; `private` as above. Raises UsageError naming the path."""
    with _aside(path, "wb", private) as file:
        file.write(content)


@contextlib.contextmanager
def _aside(path: Path, mode: str, private: bool = False, **how: str) -> Iterator[IO[Any]]:
    """A file that becomes `path` once the block has succeeded, and is gone if it has not."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, 0o600 if private else 0o666)

    try:
        with open(aside, mode, opener=opener, **how) as file:  # type: ignore[call-overload]  # no literal
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        _flush_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError, ValueError):
            aside.unlink()
        if isinstance(error, OSError | ValueError):
            raise UsageError(f"can't save to {path}: {error}") from error
        raise


def _flush_folder(folder: Path) -> None:
    """A new name is on disk once its folder is. Windows opens no folders, some file systems flush none."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
