"""Job: one export by the Optimum road, from a folder to the files of a bundle and its measurement."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import Sequential
from onnx_ir.passes import common as clean

from edgert import __version__
from edgert.bundle import (
    DATA,
    GOLDEN,
    GRAPH,
    Bundle,
    FileFacts,
    GraphFacts,
    Manifest,
    ModelFacts,
    Quantization,
)
from edgert.bundle.graph_io import FP32, GROWING, SHARED
from edgert.bundle.manifest import GROWING_CACHE
from edgert.devices import DeviceProfile
from edgert.engine import golden
from edgert.errors import EdgertWarning, FidelityError, UsageError
from edgert.export import DEFAULT_MAX_CONTEXT, ExportOptions, Progress
from edgert.export.forms import Blocks, Form
from edgert.export.matrix import EMBEDDING
from edgert.export.recipe import Recipe, fp32, int4, int8, shared
from edgert.export.sample import Sample, read_sample
from edgert.export.writer import facts_of, write_genai, write_manifest, write_text, write_tokenizer

from . import require_extra
from .attention.fuse import count_biases, share_cache
from .attention.probe import Probe
from .genai import KIND as GENAI_KIND
from .interface import settle
from .lookups import look_up
from .merging import with_adapters, write_merged
from .passport import measure
from .preview import expect, fitted, shapes_of
from .products import HEAD, store_products
from .report import PASSES, to_json
from .store import Store
from .student import Student, count_weights
from .tracing import trace, warn_of_cost
from .writing import Graph, model_facts, write_graph

BLOCK_SIZE = 32  # nothing else makes up for large blocks here: no rotation, no calibration


@dataclass(frozen=True)
class OptimumJob:
    """What to make of a student, for which devices."""

    student: Student
    options: ExportOptions
    profiles: tuple[DeviceProfile, ...]
    name: str
    progress: Progress
    context: int

    def run(self, aside: Path) -> Manifest:
        """Write the bundle into `aside`. Raises ValueError, CheckpointError, FidelityError, MissingExtra,
        UsageError.
        """
        require_extra(f"exporting {self.student.family} via optimum")
        recipe = self.recipe()
        sample = self._sample()
        warn_of_cost(count_weights(self.student.folder))
        self.progress("Tracing", 0, 1)
        with tempfile.TemporaryDirectory(prefix=".edgert-traced-", dir=aside.parent) as scratch:
            traced = trace(self._source(Path(scratch)), Path(scratch))
            self.progress("Tracing", 1, 1)
            graph = self._lowered(traced, recipe)
            data = write_graph(graph, aside, lambda *done: self.progress("Exporting", *done))
            facts = self._write_texts(graph, aside)
            manifest = self._manifest(facts, graph, recipe, {DATA: data} | facts_of(aside))
            if sample is not None:
                manifest = self._measured(traced, graph, manifest, sample, aside)
        self._check(manifest)
        write_manifest(manifest, aside)
        return manifest

    def _source(self, scratch: Path) -> Path:
        """The folder to trace: the student's own, or a copy with adapters merged."""
        folder, adapters = self.student.folder, self.options.adapters
        return write_merged(folder, adapters, scratch / "merged") if adapters else folder

    def preview(self) -> Manifest:
        """The manifest that the bundle would have, about; nothing is traced. Raises UsageError."""
        recipe, shapes = self.recipe(), shapes_of(self.student)
        forms = {name: fitted(form_of(recipe, name), shape[1]) for name, shape in shapes.items()}
        return expect(
            self.student,
            name=self.name,
            context=self.context,
            form=recipe.label,
            quantization=_quantization(recipe, forms, shapes),
            devices=tuple(profile.name for profile in self.profiles),
        )

    def recipe(self) -> Recipe:
        """Forms of the devices, in small blocks; not rotated, not calibrated. Raises UsageError."""
        if self.options.quant == "fp32":
            return fp32()
        recipes = [self._recipe(profile) for profile in self.profiles]
        if len({recipe.label for recipe in recipes}) > 1:
            named = " and ".join(profile.name for profile in self.profiles)
            raise UsageError(f"{named} read weights in different ways: via optimum, export one for each")
        return replace(
            shared(recipes),
            scheme=self.options.quant,
            rotated=False,
            calibrated=False,
            hadamard=0,
            spread=False,
        )

    def _recipe(self, profile: DeviceProfile) -> Recipe:
        """Rows want a rotated basis: only where blocks have no kernel."""
        if self.options.quant == "int4":
            return int4(profile, self.options.block_size or BLOCK_SIZE)
        usual = None if profile.is_slow("blocks8") else BLOCK_SIZE
        return int8(profile, self.options.block_size or usual)

    def _lowered(self, traced: Path, recipe: Recipe) -> Graph:
        """The traced graph with edgert's inputs and outputs, and its matrices in their forms."""
        model = ir.load(traced)
        Sequential(
            clean.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            clean.IdentityEliminationPass(),
        )(model)
        cache, settled = settle(model)
        probe = Probe(model, cache, traced.parent, self.student.vocab_size)
        shared, attention = share_cache(probe, self.context)
        model, store = shared or model, Store(lambda name: form_of(recipe, name))
        reports = (settled, attention, look_up(model, store), store_products(model, store))
        clean.RemoveUnusedNodesPass()(model)
        return Graph(model, cache, SHARED if shared else GROWING, store, reports)

    def _write_texts(self, graph: Graph, aside: Path) -> ModelFacts:
        facts = model_facts(self.student, graph, self.context)
        write_tokenizer(self.student.tokenizer, aside)
        write_text(aside / PASSES, to_json(graph.reports))
        if graph.kind == SHARED:
            write_genai(facts, self.student.generation, GENAI_KIND, aside)
        return facts

    def _manifest(
        self, facts: ModelFacts, graph: Graph, recipe: Recipe, files: dict[str, FileFacts]
    ) -> Manifest:
        devices = tuple(profile.name for profile in self.profiles)
        shapes = {name: matrix.shape for name, matrix in graph.store.matrices.items()}
        return Manifest(
            requires=(GROWING_CACHE,) if graph.kind == GROWING else (),
            name=self.name,
            model=facts,
            quantization=_quantization(recipe, graph.store.forms, shapes),
            devices=devices,
            generation=self.student.generation,
            origin=self.student.origin,
            edgert=__version__,
            files=files,
            graphs={
                GRAPH: GraphFacts(
                    recipe.label,
                    devices,
                    FP32.name,
                    cache=graph.kind,
                    attention_biases=count_biases(graph.model),
                )
            },
        )

    def _measured(
        self, traced: Path, graph: Graph, manifest: Manifest, sample: Sample, aside: Path
    ) -> Manifest:
        found = measure(
            traced,
            graph.cache,
            Bundle(aside, manifest),
            sample,
            lambda *done: self.progress("Measuring", *done),
        )
        facts = replace(manifest.graphs[GRAPH], fidelity=found.fidelity[GRAPH])
        files = {**manifest.files, GOLDEN: write_text(aside / GOLDEN, golden.to_json(found.golden))}
        return replace(manifest, graphs={GRAPH: facts}, sample=sample.name, files=files)

    def _sample(self) -> Sample | None:
        if not self.options.verify or self.options.quant == "fp32":
            return None
        return read_sample(self.student, self.options.calibration, self.context)

    def _check(self, manifest: Manifest) -> None:
        found, bound = manifest.graphs[GRAPH].fidelity, self.options.max_kl
        if bound is not None and found is not None and found.mean_kl > bound:
            raise FidelityError(
                f"mean KL {found.mean_kl:.4f} is above --max-kl {bound}. More bits or a smaller --block-size "
                "lose less"
            )


def open_optimum_job(
    student: Student,
    options: ExportOptions,
    profiles: tuple[DeviceProfile, ...],
    name: str,
    progress: Progress,
) -> OptimumJob:
    """Check everything but the weights. Raises UsageError, CheckpointError."""
    _refuse_options(options)
    student = with_adapters(student, options.adapters)
    student = replace(student, generation=options.defaults(student.generation))
    return OptimumJob(student, options, profiles, name, progress, _context(options.max_context, student))


def _refuse_options(options: ExportOptions) -> None:
    """Raise UsageError for what the direct road alone can do."""
    if options.quant == "mixed":
        raise UsageError("--quant mixed needs the direct road: via optimum take int8, int4 or fp32")
    if options.kv not in (None, FP32.name):
        raise UsageError(f"--kv {options.kv} needs the direct road: via optimum keys and values are fp32")
    if options.separate_adapters:
        raise UsageError("--adapter-separate needs the direct road: edgert's own graphs alone take adapters")


def _context(asked: int | None, student: Student) -> int:
    limit = student.max_context
    if asked is None:
        if not student.names_context:
            warnings.warn(
                f"config.json names no longest context: the bundle holds {limit} tokens; "
                "--max-context says otherwise",
                EdgertWarning,
                stacklevel=2,
            )
        return min(limit, DEFAULT_MAX_CONTEXT)
    if asked < 1 or (student.names_context and asked > limit):
        raise UsageError(f"--max-context must be between 1 and the model's {limit}, not {asked}")
    return asked


def form_of(recipe: Recipe, name: str) -> Form:
    """The tables take the head's form; 8 bits for them where the others have 4."""
    if name not in (HEAD, str(EMBEDDING)):
        return recipe.forms["down"]
    return (recipe.wide or recipe.forms)["head"]


def _quantization(
    recipe: Recipe, forms: Mapping[str, Form], shapes: Mapping[str, tuple[int, int]]
) -> Quantization:
    """What `Recipe.quantization` tells of the direct road's matrices; `shapes` are (rows, columns)."""
    weights = sum(math.prod(shape) for shape in shapes.values())
    stored = sum(forms[name].bytes(shape) for name, shape in shapes.items())
    usual = recipe.forms["down"]
    blocks = {"down": usual, "head": recipe.forms["head"]}
    sizes = {kind: form.block_size for kind, form in blocks.items() if isinstance(form, Blocks)}
    return Quantization(
        scheme=recipe.scheme,
        bits=usual.bits,
        block_size=sizes,
        accuracy_level=usual.accuracy_level if isinstance(usual, Blocks) else 0,
        exceptions={name: form.bits for name, form in forms.items() if form.bits != usual.bits},
        bits_per_weight=round(stored * 8 / weights, 3) if weights else 0.0,
    )
