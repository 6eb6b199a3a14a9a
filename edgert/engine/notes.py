"""Machine: notes that a bundle keeps of the machine it lies on, void once what they depend on changes.

In its folder `machine`: which copy was prepared, what was tuned, which provider was checked.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgert import devices
from edgert.bundle import DATA, MACHINE, Bundle
from edgert.engine.providers import ort
from edgert.errors import EdgertWarning, UsageError
from edgert.saving import save_text


@dataclass(frozen=True)
class Fingerprint:
    """What a note depends on."""

    weights: str
    onnxruntime: str
    processor: str


def fingerprint(bundle: Bundle) -> Fingerprint:
    """Of a bundle on this machine."""
    hardware = devices.here()
    processor = " ".join([hardware.processor, *sorted(hardware.features)])
    return Fingerprint(bundle.manifest.files[DATA].sha256, ort.__version__, processor)


@dataclass(frozen=True)
class Note:
    """One note, whether or not it was ever written."""

    bundle: Bundle
    name: str

    @property
    def path(self) -> Path:
        return self.bundle.path(MACHINE) / f"{self.name}.json"

    def write(self, content: Mapping[str, Any]) -> None:
        """Write it whole or not at all. Raises UsageError naming the file."""
        table = {"of": asdict(fingerprint(self.bundle)), **content}
        try:
            self.path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise UsageError(f"can't make {self.path.parent}: {error.strerror}") from error
        save_text(self.path, json.dumps(table, indent=2) + "\n")

    def try_to_write(self, content: Mapping[str, Any]) -> None:
        """The same, but a bundle that can't be written to is only not remembered, with a warning."""
        try:
            self.write(content)
        except UsageError as error:
            warnings.warn(f"{error}: not remembered for the next time", EdgertWarning, stacklevel=4)

    def read(self) -> dict[str, Any] | None:
        """What was written, unless it is of another time."""
        return None if self.outdated() else self._table()

    def outdated(self) -> str:
        """Why it holds no more, in words; empty if it does."""
        table = self._table()
        if table is None:
            return "there is none"
        made = table.get("of")
        for name, wanted in asdict(fingerprint(self.bundle)).items():
            found = made.get(name) if isinstance(made, dict) else None
            if found != wanted:
                return f"it is of another {name} ({found}, here {wanted})"
        return ""

    def _table(self) -> dict[str, Any] | None:
        try:
            table = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return table if isinstance(table, dict) else None
