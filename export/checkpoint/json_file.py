"""JSON files of a checkpoint, with the file and the line in what is said of a bad one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgert.errors import CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError."""
    try:
        return parse_json(path, path.read_text("utf-8"))
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
    if not isinstance(table, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return table


def optional_json(path: Path) -> dict[str, Any]:
    """The same of a file that may be missing: empty then."""
    return read_json(path) if path.exists() else {}
