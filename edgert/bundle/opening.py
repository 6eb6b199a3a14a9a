"""Opening: a bundle's folder, its manifest read, its files found and compared with it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgert.bundle.files import DATA, GENAI_GRAPH, MACHINE, MANIFEST, FileFacts, file_facts
from edgert.bundle.graph_io import FP32
from edgert.bundle.manifest import Manifest, read_manifest
from edgert.errors import BundleError, UsageError

REPLACED = f"{MACHINE}/replaced.json"  # names of files that a copy made there stands for
NOTHING: Mapping[str, float] = {}


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and manifest."""

    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        return self.folder / name

    def text(self, name: str) -> str | None:
        """Content of a text file, None if the bundle has none of that name. Raises BundleError."""
        try:
            return self.path(name).read_text("utf-8") if name in self.manifest.files else None
        except UnicodeDecodeError as error:
            raise BundleError(f"{self.path(name)}: damaged, no text; export or pull it again") from error

    def graph(
        self,
        kv: str | None = None,
        usual: str = FP32.name,
        slower: Mapping[str, float] = NOTHING,
        device: str = "",
    ) -> str:
        """File name of the graph to run: of those that cache keys and values as asked, the quickest here.

        `slower`: how many times the best form's time each form takes on the device, 1 where it says nothing;
        of equals it is the graph that was made for `device`. Without a `kv` it is 8 bits where the export
        asked for them, else the device's `usual` if there is such a graph. Raises UsageError.
        """
        graphs = self.manifest.graphs
        kinds = list(dict.fromkeys(facts.kv for facts in graphs.values()))
        if kv is None:
            kv = usual if kinds[0] == FP32.name and usual in kinds else kinds[0]
        if kv not in kinds:
            only = ", ".join(kinds)
            raise UsageError(f"{self.folder} caches keys and values in {only} only: export it with --kv {kv}")
        suited = [name for name, facts in graphs.items() if facts.kv == kv]
        return min(
            suited, key=lambda name: (slower.get(graphs[name].form, 1.0), device not in graphs[name].devices)
        )

    def graph_path(self, graph: str, *, saturates: bool) -> Path:
        """The file of a graph for a processor; `saturates`: sums of signed 8-bit products overflow there."""
        unsigned = self.manifest.graphs[graph].unsigned
        return self.path(unsigned if saturates and unsigned else graph)

    @property
    def size(self) -> int:
        """Bytes on disk, without what was made on this machine."""
        return sum(facts.size for facts in self.present.values())

    def prepared(self, graph: str) -> tuple[Path, Path]:
        """Where a graph's copy with packed weights lies if there is one: the graph and its data."""
        copy = self.path(MACHINE) / graph
        return copy, copy.with_name(f"{graph}.data")

    @property
    def replaced(self) -> tuple[str, ...]:
        """Names of files that `edgert prepare --replace` removed, since its copy holds what they held.

        What is still there is no such file, whatever the list says, nor is anything but graphs and weights;
        and none is where the copy is gone, too. Raises BundleError.
        """
        listed = self._listed_as_replaced()
        kept = [graph for graph in self.manifest.graphs if graph not in listed]
        if not any(all(path.is_file() for path in self.prepared(graph)) for graph in kept):
            return ()
        removable = (DATA, GENAI_GRAPH, *self.manifest.graph_files)
        return tuple(name for name in removable if name in listed and not self.path(name).exists())

    def _listed_as_replaced(self) -> list[str]:
        path = self.path(REPLACED)
        try:
            listed = json.loads(path.read_text("utf-8")) if path.exists() else []
        except OSError as error:
            raise BundleError(f"{path}: can't be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{path}: damaged ({error}); export or pull the bundle again") from error
        if not isinstance(listed, list):
            raise BundleError(f"{path}: damaged (no list of names); export or pull the bundle again")
        return listed

    @property
    def present(self) -> dict[str, FileFacts]:
        """The files that must be there."""
        absent = self.replaced
        return {name: facts for name, facts in self.manifest.files.items() if name not in absent}

    def check_hashes(self) -> None:
        """Compare every file with its SHA-256. Raises BundleError naming the first that differs."""
        for name, facts in self.present.items():
            found = file_facts(self.path(name))
            if found.sha256 != facts.sha256:
                raise BundleError(f"{self.path(name)}: damaged (another SHA-256); export or pull it again")


def open_bundle(folder: str | Path) -> Bundle:
    """Read the manifest and check that every file is there with its size. Raises BundleError."""
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.exists():
        raise BundleError(_no_bundle(folder))
    bundle = Bundle(folder, read_manifest(path))
    for name, facts in bundle.present.items():
        if not bundle.path(name).is_file():
            raise BundleError(f"{bundle.path(name)}: missing from the bundle; export or pull it again")
        size = bundle.path(name).stat().st_size
        if size != facts.size:
            raise BundleError(
                f"{bundle.path(name)}: {size} bytes instead of {facts.size}; export or pull it again"
            )
    return bundle


def _no_bundle(path: Path) -> str:
    """What a path is instead of a bundle, and the command that helps."""
    if checkpoint := _checkpoint(path):
        place = checkpoint.resolve()
        made = f"{place.stem if place.suffix.lower() == '.gguf' else place.name}-int8"
        command = f"edgert export {shlex.quote(str(checkpoint))} {shlex.quote(made)}"
        return f"{checkpoint}: a checkpoint, not a bundle; export it first: {command}"
    if path.is_dir():
        return f"{path}: a folder, but not a bundle: it has no {MANIFEST}"
    if path.exists():
        return f"{path}: a file, but a bundle is a folder; `edgert export` makes one"
    return f"{path}: no such bundle; make one with `edgert export`, or `edgert pull` a student by name"


def _checkpoint(path: Path) -> Path | None:
    """What could be exported: the path itself, or a GGUF file in that folder."""
    if (path / "config.json").exists() or (path.is_file() and path.suffix.lower() == ".gguf"):
        return path
    return min(path.glob("*.gguf"), default=None)
