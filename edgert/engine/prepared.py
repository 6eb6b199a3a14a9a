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
from edgert.bundle import DATA, GENAI_GRAPH, MACHINE, REPLACED, Bundle, file_facts
from edgert.engine import memory
from edgert.engine.decoder import Decoder
from edgert.engine.graph_session import GraphSession, pack
from edgert.engine.notes import Note
from edgert.errors import BundleError, EdgertError, EdgertWarning
from edgert.saving import save_text

SAMPLE = range(1, 13)  # token ids whose logits must be equal before and after, bit for bit
ASIDE = ".packing-"
MORE = 2.2  # times the weights: ONNX Runtime keeps them plain, too, and reads both while loading


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
    def note(self) -> Note:
        """What the copy is tied to; without it nothing reads the copy."""
        return Note(self.bundle, f"prepared-{self.path.stem}")

    @property
    def exists(self) -> bool:
        return self.note.path.exists()

    @property
    def usable(self) -> bool:
        return self.exists and not self.outdated()

    @property
    def size(self) -> int:
        """Bytes that it takes on disk."""
        return self.data.stat().st_size

    @property
    def needed(self) -> int:
        """About the bytes that it will take on disk."""
        return int(MORE * self.bundle.manifest.files[DATA].size)

    def outdated(self) -> str:
        """Why the copy can't be used, in words; empty if it can."""
        note = self.note.read()
        if note is None:
            return self.note.outdated()
        sizes = {path.name: path.stat().st_size for path in (self.path, self.data) if path.exists()}
        made = {name: facts["size"] for name, facts in note.get("files", {}).items()}
        return "" if made == sizes else "its files are missing or cut short"

    def damaged(self) -> str:
        """Which of its files has other content than when it was made; empty if none has. Reads all."""
        for name, facts in (self.note.read() or {}).get("files", {}).items():
            if asdict(file_facts(self.path.with_name(name))) != facts:
                return f"{self.path.with_name(name)}: damaged (another SHA-256)"
        return ""

    def make(self) -> None:
        """Write the copy aside, make sure that it computes the same, put it in place.

        Raises BundleError; the bundle itself is not touched.
        """
        check_replaced(self.bundle)
        self._check_memory()
        self.bundle.check_hashes()  # the copy may once be all there is
        folder = self.bundle.path(MACHINE)
        folder.mkdir(exist_ok=True)
        for left in folder.glob(f"{ASIDE}*"):  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        free = shutil.disk_usage(folder).free
        if free < self.needed:
            needed = f"{self.needed / 1e6:,.0f} MB on disk"
            raise BundleError(f"{folder}: preparing needs {needed}, {free / 1e6:,.0f} are free")
        with tempfile.TemporaryDirectory(prefix=ASIDE, dir=folder) as aside:
            copy = Path(aside) / self.graph
            pack(self.bundle, self.graph, copy)
            if _logits(self.bundle, self.graph, copy) != _logits(self.bundle, self.graph, None):
                raise BundleError(f"{folder}: the packed copy computes something else; it was not kept")
            self._place(copy)

    def replace_original(self) -> None:
        """Remove the bundle's own weights: the copy holds them. Raises BundleError if it is not usable."""
        if not self.usable:
            raise BundleError(f"{self.bundle.folder}: prepare it before its weights are removed")
        others = [name for name in self.bundle.manifest.graphs if name != self.graph]
        removed = [DATA, GENAI_GRAPH, *others]
        save_text(self.bundle.path(REPLACED), json.dumps(removed))
        for name in removed:
            with contextlib.suppress(FileNotFoundError):
                self.bundle.path(name).unlink()

    def _check_memory(self) -> None:
        """Packing takes what loading takes. Raises DoesNotFit."""
        manifest, profile = self.bundle.manifest, devices.load(devices.DEFAULT)
        facts, here = manifest.graphs[self.graph], devices.here()
        plan = memory.plan(manifest, facts, profile, len(SAMPLE), machine=here)
        memory.check_fits(plan, len(SAMPLE), f"packing {self.bundle.folder}")

    def _place(self, copy: Path) -> None:
        """The note goes first and comes last."""
        self.note.path.unlink(missing_ok=True)
        files = {}
        for made, place in ((copy, self.path), (copy.with_name(f"{copy.name}.data"), self.data)):
            with made.open("rb+") as file:
                os.fsync(file.fileno())
            made.replace(place)
            files[place.name] = asdict(file_facts(place))
        self.note.write({"files": files})


def check_replaced(bundle: Bundle) -> None:
    """Raise BundleError where a copy that replaced the bundle's own weights can't be used here."""
    if DATA not in bundle.replaced:
        return
    graph = next(name for name in bundle.manifest.graphs if name not in bundle.replaced)
    if reason := Prepared(bundle, graph).outdated():
        raise BundleError(
            f"{bundle.folder}: the prepared copy is of no use, {reason}, and the weights it was made of were "
            "removed by --replace: export or pull it again"
        )


def refresh(bundle: Bundle, graph: str) -> None:
    """Make an outdated copy of a graph again, with a warning; leave it alone where that can't be done.

    Raises BundleError if it is all there is.
    """
    check_replaced(bundle)
    copy = Prepared(bundle, graph)
    reason = copy.outdated() if copy.exists else ""
    if not reason:
        return
    warnings.warn(f"the prepared copy is made again: {reason}", EdgertWarning, stacklevel=5)
    try:
        copy.make()
    except (EdgertError, OSError) as error:
        warnings.warn(f"{error}: starting without the prepared copy", EdgertWarning, stacklevel=5)


def _logits(bundle: Bundle, graph: str, packed: Path | None) -> bytes:
    """What a graph gives for a few tokens, read together and one at a time."""
    facts = bundle.manifest.model
    tokens = [token % facts.vocab_size for token in SAMPLE][: facts.context - 1] or [0]
    session = GraphSession(bundle, devices.load(devices.DEFAULT), graph, packed)
    context = min(len(SAMPLE) + 1, facts.context)
    decoder = Decoder(session, facts, context, len(SAMPLE), bundle.manifest.graphs[graph].kv)
    read = decoder.logits(tokens).tobytes()
    return read + decoder.decode(tokens[0]).tobytes() if len(tokens) < facts.context else read
