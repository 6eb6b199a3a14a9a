"""JSON and text files of a checkpoint, with the file and the line in what is said of a bad one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgert.errors import CheckpointError

# What readers trip over when a field has another type than its format says.
MALFORMED = (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, OSError)


@contextmanager
def well_formed(source: Path) -> Iterator[None]:
    """What is wrong with a field that is read within is a CheckpointError that names `source`."""
    try:
        yield
    except MALFORMED as error:
        raise CheckpointError(f"{source}: malformed ({type(error).__name__}: {error})") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError."""
    return parse_json(path, read_text(path))


def read_text(path: Path) -> str:
    """A file's text. Raises CheckpointError."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; is {path.parent} a Hugging Face checkpoint?") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8 text; copy or download it again") from error
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error


def parse_json(path: Path, text: str) -> dict[str, Any]:
    """A JSON object from the text of a file. Raises CheckpointError with the line that is wrong."""
    try:
        table = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg}); mend it, or download it again"
        ) from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: its JSON is nested too deeply") from error
    if not isinstance(table, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return table


def optional_json(path: Path) -> dict[str, Any]:
    """The same of a file that may be missing: empty then."""
    return read_json(path) if path.exists() else {}
