"""Prepared: a copy of a graph with its weights packed for this machine, made once, mapped at every start.

ONNX Runtime packs weights into memory of its own whenever it loads a graph; from a copy it maps them. The
layout belongs to one processor and one version of ONNX Runtime: a copy made for another is never used.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from edgert import devices
from edgert.bundle import DATA, GENAI_GRAPH, MACHINE, REPLACED, Bundle
from edgert.decoder import Decoder
from edgert.errors import BundleError, EdgertWarning
from edgert.saving import save_text
from edgert.session import VERSION, Session, pack

SAMPLE = range(1, 13)  # token ids whose logits must be equal before and after, bit for bit


@dataclass(frozen=True)
class Stamp:
    """What a copy is tied to: the graph and weights it was made of, and who can run it."""

    graph: str
    weights: str
    onnxruntime: str
    processor: str


@dataclass(frozen=True)
class Prepared:
    """The copy of one graph of a bundle, whether or not it is there."""

    bundle: Bundle
    graph: str

    @property
    def path(self) -> Path:
        return self.bundle.path(MACHINE) / self.graph

    @property
    def data(self) -> Path:
        return self.path.with_name(f"{self.graph}.data")

    @property
    def stamp(self) -> Path:
        return self.path.with_suffix(".json")

    @property
    def exists(self) -> bool:
        return self.stamp.exists()

    @property
    def usable(self) -> bool:
        return self.exists and not self.outdated()

    @property
    def size(self) -> int:
        """Bytes that it takes on disk."""
        return self.data.stat().st_size

    def outdated(self) -> str:
        """Why the copy can't be used, in words; empty if it can."""
        try:
            made = json.loads(self.stamp.read_text("utf-8"))
        except (OSError, ValueError):
            return "its stamp can't be read"
        for name, wanted in asdict(self._wanted()).items():
            if made.get(name) != wanted:
                return f"it was made for another {name}: {made.get(name)}, not {wanted}"
        if not (self.path.exists() and self.data.exists()):
            return "files are missing"
        return ""

    def needed(self) -> int:
        """About the bytes that it takes on disk: ONNX Runtime keeps the weights, and once more as packed."""
        return int(2.2 * self.bundle.manifest.files[DATA].size)

    def make(self) -> None:
        """Write the copy aside, make sure that it computes the same, put it in place.

        Raises BundleError; the bundle itself is not touched.
        """
        if DATA in self.bundle.replaced:
            raise BundleError(
                f"{self.bundle.folder}: {self.outdated()}, and its own weights were removed by --replace; "
                "export or pull it again"
            )
        folder = self.bundle.path(MACHINE)
        folder.mkdir(exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < self.needed():
            raise BundleError(
                f"{folder}: preparing needs {self.needed() / 1e6:,.0f} MB on disk, {free / 1e6:,.0f} are free"
            )
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as aside:
            copy = Path(aside) / self.graph
            pack(self.bundle, self.graph, copy)
            self._check(copy)
            self._place(copy)

    def replace_original(self) -> None:
        """Remove the bundle's own weights: the copy holds them. Raises BundleError if it is not usable."""
        if not self.usable:
            raise BundleError(f"{self.bundle.folder}: prepare it before its weights are removed")
        others = [name for name in self.bundle.manifest.graphs if name != self.graph]
        save_text(self.bundle.path(REPLACED), json.dumps([DATA, GENAI_GRAPH, *others]))
        for name in self.bundle.replaced:
            with contextlib.suppress(FileNotFoundError):
                self.bundle.path(name).unlink()

    def _wanted(self) -> Stamp:
        files, hardware = self.bundle.manifest.files, devices.here()
        features = " ".join(sorted(hardware.features))
        return Stamp(
            files[self.graph].sha256, files[DATA].sha256, VERSION, f"{hardware.processor} {features}".strip()
        )

    def _check(self, copy: Path) -> None:
        original, packed = (_logits(self.bundle, self.graph, path) for path in (None, copy))
        if original != packed:
            raise BundleError(
                f"{self.bundle.folder}: the packed copy computes something else; it was not kept"
            )

    def _place(self, copy: Path) -> None:
        """The stamp goes first and comes last: without it nothing reads the copy."""
        self.stamp.unlink(missing_ok=True)
        for made, place in ((copy.with_name(f"{copy.name}.data"), self.data), (copy, self.path)):
            with made.open("rb+") as file:
                os.fsync(file.fileno())
            made.replace(place)
        save_text(self.stamp, json.dumps(asdict(self._wanted()), indent=2) + "\n")


def current(bundle: Bundle, graph: str) -> Prepared | None:
    """The copy of a graph, None if there is none; an outdated one is made again. Raises BundleError."""
    copy = Prepared(bundle, graph)
    if not copy.exists:
        return None
    if reason := copy.outdated():
        warnings.warn(f"the prepared copy is made again: {reason}", EdgertWarning, stacklevel=4)
        copy.make()
    return copy


def _logits(bundle: Bundle, graph: str, packed: Path | None) -> bytes:
    """What a graph gives for a few tokens, read together and one at a time."""
    facts = bundle.manifest.model
    tokens = [token % facts.vocab_size for token in SAMPLE][: facts.context - 1] or [0]
    session = Session(bundle, devices.load(devices.DEFAULT), graph, packed)
    decoder = Decoder(session, facts, facts.context, len(SAMPLE), bundle.manifest.graphs[graph].kv)
    return decoder.logits(tokens).tobytes() + decoder.decode(tokens[0]).tobytes()
