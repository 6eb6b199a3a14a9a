"""Pulled: the note in a checkpoint's folder about where it was pulled from, and the hashes of its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from edgert.bundle import file_facts
from edgert.bundle.record import Invalid, read_record

NOTE = "pulled.json"


@dataclass(frozen=True)
class Pulled:
    """`source`: repository of the hub, `revision`: its commit; None of what is not from there."""

    source: str | None = None
    revision: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    def is_intact(self, folder: Path) -> bool:
        """Whether everything that was pulled is still there, bit for bit."""
        try:
            return all(file_facts(folder / name).sha256 == sha256 for name, sha256 in self.files.items())
        except OSError:
            return False

    def write(self, folder: Path) -> None:
        (folder / NOTE).write_text(json.dumps(asdict(self), indent=2), "utf-8")


def read_pulled(folder: Path) -> Pulled | None:
    """The note of a folder; None where there is none, or a damaged one."""
    try:
        table = json.loads((folder / NOTE).read_text("utf-8"))
        if isinstance(table, dict) and not isinstance(table.get("files"), dict):
            table = {"files": table}  # as it was before it named the source
        return read_record(Pulled, table)
    except (OSError, ValueError, RecursionError, Invalid):
        return None
