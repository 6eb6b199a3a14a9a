"""MachineNote: what a bundle remembers of the machine that it lies on, void once what it depends on changes.

In its folder `machine`: which copy was prepared, what was tuned, which provider was checked. Nothing there is
believed as it stands: a note that is not what it should be holds no more than one of another machine.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, cast

from edgert import devices
from edgert.bundle import DATA, MACHINE, Bundle
from edgert.bundle.record import Invalid, Record, read_record
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
class MachineNote(Generic[Record]):
    """One note, whether or not it was ever written. `kind` is the dataclass that it holds."""

    bundle: Bundle
    name: str
    kind: type[Record]

    @property
    def path(self) -> Path:
        return self.bundle.path(MACHINE) / f"{self.name}.json"

    def write(self, content: Record) -> None:
        """Write it whole or not at all. Raises UsageError naming the file."""
        table = {"of": asdict(fingerprint(self.bundle)), **asdict(cast(Any, content))}
        try:
            self.path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise UsageError(f"can't make {self.path.parent}: {error.strerror}") from error
        save_text(self.path, json.dumps(table, indent=2) + "\n")

    def try_to_write(self, content: Record) -> None:
        """The same, but a bundle that can't be written to is only not remembered, with a warning."""
        try:
            self.write(content)
        except UsageError as error:
            warnings.warn(f"{error}: not remembered for the next time", EdgertWarning, stacklevel=4)

    def read(self) -> Record | None:
        """What was written, unless it is outdated."""
        try:
            return self._content()
        except _Outdated:
            return None

    def outdated(self) -> str:
        """Why it holds no more, in words; empty if it does."""
        try:
            self._content()
        except _Outdated as error:
            return str(error)
        return ""

    def _content(self) -> Record:
        """Raises _Outdated."""
        try:
            table = json.loads(self.path.read_text("utf-8"))
            made = read_record(_Of, table).of
        except OSError as error:
            raise _Outdated("there is none") from error
        except (ValueError, RecursionError) as error:
            raise _Outdated(f"its note is damaged ({error})") from error
        for name, wanted in asdict(fingerprint(self.bundle)).items():
            found = getattr(made, name)
            if found != wanted:
                raise _Outdated(f"it is of another {name} ({found}, here {wanted})")
        try:
            return read_record(self.kind, table)
        except Invalid as error:
            raise _Outdated(f"its note is damaged ({error})") from error


@dataclass(frozen=True)
class _Of:
    """What every note says, whatever it holds."""

    of: Fingerprint


class _Outdated(Exception):
    """A note that holds no more; the text says why."""
