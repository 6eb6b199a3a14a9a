"""Files of a bundle: their names, how a manifest may name them, their sizes and hashes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from edgert.bundle.record import Between, Matching

MANIFEST = "edgert.json"
GRAPH = "model.onnx"
DATA = "model.onnx.data"
GENAI_GRAPH = "genai.onnx"
GENAI_CONFIG = "genai_config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
GOLDEN = "golden.json"
MACHINE = "machine"  # folder of what was made or measured on the machine that the bundle lies on

LONGEST = 200  # characters of a name: file systems hold 255 bytes per part, Windows 260 characters per path


class InsideBundle:
    """A relative path that means the same file, inside the bundle, on every system: `adapters/x.bin`."""

    def complaint(self, value: str) -> str:
        parts = value.split("/")
        if {"", ".", ".."}.intersection(parts) or ":" in value:
            return "leaves the bundle: file names are relative, without '..'"
        if "\\" in value or not value.isprintable() or any(part != part.rstrip(". ") for part in parts):
            return "is no file name on every system: parts are separated by '/'"
        if len(value) > LONGEST:
            return f"is a longer file name than {LONGEST} characters"
        return f"is in '{MACHINE}', which no export writes" if parts[0].lower() == MACHINE else ""


FileName = Annotated[str, InsideBundle()]


@dataclass(frozen=True)
class FileFacts:
    """Size in bytes and SHA-256 of one file."""

    size: Annotated[int, Between(0, 1 << 62)]
    sha256: Annotated[str, Matching("[0-9a-f]{64}", "a SHA-256 of 64 hexadecimal digits")]


def file_facts(path: Path) -> FileFacts:
    """Size and hash of a file on disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return FileFacts(path.stat().st_size, digest.hexdigest())
