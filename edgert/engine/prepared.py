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
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgert import devices
from edgert.bundle import DATA, GENAI_GRAPH, MACHINE, REPLACED, Bundle, FileFacts, file_facts
from edgert.engine import memory
from edgert.engine.decoder import open_decoder
from edgert.engine.graph_session import GraphSession, pack
from edgert.engine.machine_note import MachineNote
from edgert.errors import BundleError, EdgertError, EdgertWarning
from edgert.file_lock import file_lock
from edgert.saving import save_text

SAMPLE_TOKENS = range(1, 13)  # token ids whose logits must be equal before and after, bit for bit
ASIDE_PREFIX, LOCK_NAME = ".packing-", ".packing.lock"
LEFT = 24 * 3600  # seconds: an older folder is of a killed run, even where files can't be locked
DISK_PER_WEIGHTS = 2.2  # times the weights: ONNX Runtime keeps them plain, too, and reads both while loading


@dataclass(frozen=True)
class Made:
    """What the note about a copy says: its files, as they were when it was made."""

    files: Mapping[str, FileFacts] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """The copy of one graph of a bundle, whether or not it is there."""

    bundle: Bundle
    graph: str

    @property
    def path(self) -> Path:
        return self.bundle.prepared(self.graph)[0]

    @property
    def data(self) -> Path:
        return self.bundle.prepared(self.graph)[1]

    @property
    def note(self) -> MachineNote[Made]:
        """What the copy is tied to; without it nothing reads the copy."""
        return MachineNote(self.bundle, f"prepared-{self.path.stem}", Made)

    @property
    def exists(self) -> bool:
        return self.note.path.exists()

    @property
    def usable(self) -> bool:
        return self.exists and not self.outdated()

    @property
    def size(self) -> int:
        """Bytes that it takes on disk."""
        return sum(path.stat().st_size for path in (self.path, self.data) if path.exists())

    @property
    def needed(self) -> int:
        """About the bytes that it will take on disk."""
        return int(DISK_PER_WEIGHTS * self.bundle.manifest.files[DATA].size)

    def outdated(self) -> str:
        """Why the copy can't be used, in words; empty if it can."""
        made = self.note.read()
        if made is None:
            return self.note.outdated()
        sizes = {path.name: path.stat().st_size for path in (self.path, self.data) if path.exists()}
        if sizes != {name: facts.size for name, facts in made.files.items()}:
            return "its files are missing or cut short"
        return ""

    def damaged(self) -> str:
        """Which of its files has other content than when it was made; empty if none has. Reads all."""
        made = self.note.read() or Made()
        for name, facts in made.files.items():
            if file_facts(self.path.with_name(name)) != facts:
                return f"{self.path.with_name(name)}: damaged (another SHA-256)"
        return ""

    def make(self) -> None:
        """Write the copy aside, make sure that it computes the same, put it in place, unless another process
        that has just prepared the bundle did.

        Raises BundleError; the bundle itself is not touched.
        """
        with self._alone() as alone:
            if self.usable:
                return
            check_replaced(self.bundle)
            self._check_memory()
            self.bundle.check_hashes()  # the copy may once be all there is
            folder = self.bundle.path(MACHINE)
            self._sweep(alone)
            free = shutil.disk_usage(folder).free
            if free < self.needed:
                needed = f"{self.needed / 1e6:,.0f} MB on disk"
                raise BundleError(f"{folder}: preparing needs {needed}, {free / 1e6:,.0f} are free")
            with tempfile.TemporaryDirectory(prefix=ASIDE_PREFIX, dir=folder) as aside:
                copy = Path(aside) / self.graph
                pack(self.bundle, self.graph, copy)
                if _logits(self.bundle, self.graph, copy) != _logits(self.bundle, self.graph, None):
                    raise BundleError(f"{folder}: the packed copy computes something else; it was not kept")
                self._place(copy)

    def replace_original(self) -> None:
        """Remove the bundle's own weights: the copy holds them. Raises BundleError if it is not usable or
        damaged.
        """
        with self._alone():
            if not self.usable:
                raise BundleError(f"{self.bundle.folder}: prepare it before its weights are removed")
            if reason := self.damaged():
                raise BundleError(f"{reason}; remove {self.path.parent} and run `edgert prepare` again")
            others = [name for name in self.bundle.manifest.graph_files if name != self.graph]
            removed = [DATA, GENAI_GRAPH, *others]
            save_text(self.bundle.path(REPLACED), json.dumps(removed))
            for name in removed:
                self.bundle.path(name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """While no other process prepares the bundle; False where files can't be locked."""
        folder = self.bundle.path(MACHINE)

        def waiting() -> None:
            text = f"{folder}: another process prepares this bundle: waiting for it"
            warnings.warn(text, EdgertWarning, stacklevel=6)

        folder.mkdir(exist_ok=True)
        with file_lock(folder / LOCK_NAME, waiting) as alone:
            yield alone

    def _sweep(self, alone: bool) -> None:
        """Remove what killed runs left, and nothing that another one may be at work on."""
        for left in self.bundle.path(MACHINE).glob(f"{ASIDE_PREFIX}*"):
            with contextlib.suppress(FileNotFoundError):
                if left.is_dir() and (alone or time.time() - left.stat().st_mtime > LEFT):
                    shutil.rmtree(left, ignore_errors=True)

    def _check_memory(self) -> None:
        """Packing takes what loading takes. Raises DoesNotFit."""
        manifest, profile = self.bundle.manifest, devices.load(devices.DEFAULT)
        facts, here = manifest.graphs[self.graph], devices.here()
        plan = memory.plan(manifest, facts, profile, len(SAMPLE_TOKENS), machine=here)
        memory.check_fits(plan, len(SAMPLE_TOKENS), f"packing {self.bundle.folder}")

    def _place(self, copy: Path) -> None:
        """The note goes first and comes last."""
        files = {copy: self.path, copy.with_name(self.data.name): self.data}
        made = Made({place.name: file_facts(aside) for aside, place in files.items()})
        self.note.path.unlink(missing_ok=True)
        for aside, place in files.items():
            with aside.open("rb+") as file:
                os.fsync(file.fileno())
            aside.replace(place)
        self.note.write(made)


def check_replaced(bundle: Bundle) -> None:
    """Raise BundleError where a copy that replaced the bundle's own weights can't be used here."""
    if DATA not in bundle.replaced:
        return
    reasons = [copy.outdated() for copy in copies(bundle)] or ["its note is missing"]
    if all(reasons):
        raise BundleError(
            f"{bundle.folder}: the prepared copy is of no use, {reasons[0]}, and the weights it was made of "
            "were removed by --replace: export or pull it again"
        )


def copies(bundle: Bundle) -> list[Prepared]:
    """The copies that a bundle has."""
    return [copy for graph in bundle.manifest.graphs if (copy := Prepared(bundle, graph)).exists]


def verify(bundle: Bundle) -> int:
    """Compare every file with its SHA-256, those of usable copies, too; how many. Raises BundleError."""
    bundle.check_hashes()
    check_replaced(bundle)
    usable = [copy for copy in copies(bundle) if copy.usable]
    for copy in usable:
        if reason := copy.damaged():
            remedy = "export or pull the bundle again" if bundle.replaced else f"remove {copy.path.parent}"
            raise BundleError(f"{reason}; {remedy}")
    return len(bundle.present) + 2 * len(usable)


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
    tokens = [token % facts.vocab_size for token in SAMPLE_TOKENS][: facts.context - 1] or [0]
    session = GraphSession(bundle, devices.load(devices.DEFAULT), graph, packed)
    context = min(len(SAMPLE_TOKENS) + 1, facts.context)
    decoder = open_decoder(session, facts, bundle.manifest.graphs[graph], context, len(SAMPLE_TOKENS))
    slot = decoder.afresh()
    read = decoder.extend(slot, tokens, len(tokens)).tobytes()
    return read + decoder.decode([slot], tokens[:1])[0].tobytes() if len(tokens) < facts.context else read
