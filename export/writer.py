"""From a checkpoint to a bundle's files: weights streamed to the data file, graphs that point into it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgert import __version__
from edgert.bundle import (
    ADAPTERS,
    CHAT_TEMPLATE,
    DATA,
    GENAI_CONFIG,
    GENAI_GRAPH,
    MANIFEST,
    TOKENIZER,
    TOKENIZER_CONFIG,
    AdapterFacts,
    FileFacts,
    GenerationDefaults,
    GraphFacts,
    Manifest,
    ModelFacts,
    Quantization,
    file_facts,
)
from edgert.bundle.graph_io import FP32, KV_KINDS
from edgert.bundle.manifest import parse_manifest

from .calibration import Calibration
from .checkpoint import Checkpoint, TokenizerFiles, Tokens
from .checkpoint.spec import ModelSpec
from .datafile import DataFile, Encoding, Extent, write_matrices
from .genai import genai_config
from .graph import build
from .layer import KVScales
from .lower import Slot, lower
from .matrix import Matrix, MatrixName, matrices
from .recipe import Recipe
from .separate import SeparateAdapter

INLINE_BYTES = 1024  # smaller constants live in the graph, where shape inference can see them

# Rounding by what is multiplied costs the cube of the columns: at 8 bits wide matrices do without.
INT8_MAX_COLUMNS, MAX_COLUMNS = 4096, 1 << 20

Progress = Callable[[int, int], None]  # weights done, weights in all


@dataclass(frozen=True)
class DeviceGroup:
    """Devices that run the same graphs, and the recipe that says how those read the weights."""

    recipe: Recipe
    devices: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What to make of a checkpoint: the bundle's name, its storage recipe, who reads it, longest context,
    which caches of keys and values there are, the default first, the tokens to calibrate on, (windows,
    tokens), and the adapters to choose from.
    """

    name: str
    recipe: Recipe
    device_groups: tuple[DeviceGroup, ...]
    context: int
    caches: tuple[str, ...] = (FP32.name,)
    calibrating: Tokens | None = None
    adapters: tuple[SeparateAdapter, ...] = ()

    def adapted(self, named: Mapping[MatrixName, Matrix]) -> dict[MatrixName, tuple[int, int]]:
        """Rows and columns of the matrices that some adapter changes."""
        changed = {name for adapter in self.adapters for name in adapter.matrices()}
        return {name: matrix.shape for name, matrix in named.items() if name in changed}

    def graphs(self) -> dict[str, tuple[DeviceGroup, str]]:
        """File names of the graphs, the one to run by default first; their groups and caches."""
        first = self.device_groups[0]
        return {
            _graph_name("" if group == first else group.recipe.label, kv): (group, kv)
            for group in self.device_groups
            for kv in self.caches
        }


def _graph_name(label: str, kv: str) -> str:
    """model.onnx of the first group, model-<label>.onnx of others; the suffix says how it caches."""
    return "-".join(["model", *filter(None, [label])]) + KV_KINDS[kv].suffix + ".onnx"


def _unsigned(graph: str, recipe: Recipe) -> str:
    """The file name of a graph's unsigned twin; empty if it needs none."""
    return f"{graph.removesuffix('.onnx')}-unsigned.onnx" if recipe.has_rows else ""


def write_bundle(checkpoint: Checkpoint, aside: Path, plan: Plan, progress: Progress) -> Manifest:
    """Write every file of the bundle into `aside`. Raises ValueError if a matrix doesn't fit its form."""
    named = matrices(checkpoint)
    calibration = _calibration(checkpoint, plan)
    with DataFile(aside / DATA) as data:
        extents = _write_weights(data, named, plan.recipe, calibration, progress)
        layout = _DataLayout(data, named, extents, {})
        for filename, (group, kv) in plan.graphs().items():
            kind = KV_KINDS[kv]
            scales = _kv_scales(calibration) if kind.scaled else None
            recipes = {filename: group.recipe}
            if unsigned := _unsigned(filename, group.recipe):
                recipes[unsigned] = group.recipe.unsigned
            for name, recipe in recipes.items():
                model = build(
                    checkpoint.spec,
                    checkpoint.vector,
                    plan.context,
                    kv=kind,
                    scales=scales,
                    adapted=plan.adapted(named),
                    flat=recipe.flat,
                )
                _save(model, aside / name, layout, recipe)
        recipe = plan.device_groups[0].recipe
        model = build(
            checkpoint.spec,
            checkpoint.vector,
            plan.context,
            "genai",
            adapted=plan.adapted(named),
            flat=recipe.flat,
        )
        _save(model, aside / GENAI_GRAPH, layout, recipe)
    write_tokenizer(checkpoint.tokenizer, aside)
    write_genai(
        facts_of_model(checkpoint.spec, plan.context), checkpoint.generation, checkpoint.spec.family, aside
    )
    for adapter in plan.adapters:
        adapter.write(aside / adapter.file, named)
    files = {DATA: data.facts} | facts_of(aside)
    return _manifest(checkpoint, plan, files, plan.recipe.quantization(named))


def write_manifest(manifest: Manifest, aside: Path) -> None:
    """The last file of a bundle. Raises ValueError if it holds what no reader accepts."""
    parse_manifest(manifest.to_json())
    write_text(aside / MANIFEST, manifest.to_json())


def _calibration(checkpoint: Checkpoint, plan: Plan) -> Calibration | None:
    scaled = any(KV_KINDS[kv].scaled for kv in plan.caches)
    if plan.calibrating is None or not (scaled or plan.recipe.calibrated):
        return None
    columns = 0
    if plan.recipe.calibrated:
        columns = INT8_MAX_COLUMNS if plan.recipe.scheme == "int8" else MAX_COLUMNS
    return Calibration(checkpoint, plan.calibrating, columns)


def _kv_scales(calibration: Calibration | None) -> list[KVScales]:
    if calibration is None:
        raise ValueError("keys and values can't be cached in 8 bits without a text to calibrate on")
    return calibration.compute_kv_scales()


def _write_weights(
    data: DataFile,
    named: Mapping[MatrixName, Matrix],
    recipe: Recipe,
    calibration: Calibration | None,
    progress: Progress,
) -> dict[tuple[MatrixName, str], Extent]:
    """Every matrix once: layers in order, which calibrates quickest, then the tables."""
    done, total = 0, sum(matrix.size for matrix in named.values())

    def advance(weights: int) -> None:
        nonlocal done
        done += weights
        progress(done, total)

    def encoding(name: MatrixName) -> Encoding[MatrixName]:
        form = recipe.fitted(name, named[name])
        if calibration is None:
            return Encoding(name, named[name], form)
        try:
            factor = calibration.compute_factor(name)
        except np.linalg.LinAlgError as error:
            raise ValueError(f"matrix '{name}' can't be calibrated ({error}): pass --no-calibrate") from error
        return Encoding(name, calibration.matrix(name), form, factor)

    order = sorted(named, key=lambda name: name.layer is None)
    extents: dict[tuple[MatrixName, str], Extent] = {}
    alone = calibration is not None and not calibration.shares_cores
    for names in [[name] for name in order] if alone else [order]:
        extents |= write_matrices(data, map(encoding, names), advance)
    return extents


@dataclass(frozen=True)
class _DataLayout:
    """Where matrices and constants lie in the data file; constants are added as graphs need them."""

    data: DataFile
    matrices: Mapping[MatrixName, Matrix]
    extents: Mapping[tuple[MatrixName, str], Extent]
    constants: dict[str, Extent]


def _save(model: ir.Model, path: Path, layout: _DataLayout, recipe: Recipe) -> None:
    slots = lower(model, layout.matrices, recipe)
    _point(model, slots, layout.extents)
    externalize(model, layout.data, layout.constants)
    ir.save(model, path)


def _point(model: ir.Model, slots: list[Slot], extents: Mapping[tuple[MatrixName, str], Extent]) -> None:
    """Give every slot the bytes of its piece; two slots may share them."""
    for slot in slots:
        set_external(slot.value, extents[slot.matrix, slot.piece])
        model.graph.register_initializer(slot.value)


def externalize(model: ir.Model, data: DataFile, constants: dict[str, Extent]) -> None:
    """Move norms, biases and rope tables to the data file, once for all graphs."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or isinstance(tensor, ir.ExternalTensor) or tensor.nbytes < INLINE_BYTES:
            continue
        name = str(value.name)
        if name not in constants:
            constants[name] = data.append([tensor.numpy()])
        set_external(value, constants[name])


def set_external(value: ir.Value, extent: Extent) -> None:
    if value.shape is None or value.dtype is None:
        raise ValueError(f"initializer '{value.name}' has no shape or type")
    value.const_value = ir.ExternalTensor(
        DATA, extent.offset, extent.length, value.dtype, shape=value.shape, name=str(value.name)
    )


def write_genai(facts: ModelFacts, generation: GenerationDefaults, kind: str, aside: Path) -> None:
    """What onnxruntime-genai reads of a bundle."""
    write_text(aside / GENAI_CONFIG, json.dumps(genai_config(facts, generation, kind), indent=2) + "\n")


def write_tokenizer(files: TokenizerFiles, aside: Path) -> None:
    write_text(aside / TOKENIZER, files.tokenizer)
    write_text(aside / TOKENIZER_CONFIG, json.dumps(files.config, indent=2, ensure_ascii=False) + "\n")
    if files.chat_template is not None:
        write_text(aside / CHAT_TEMPLATE, files.chat_template)


def write_text(path: Path, text: str) -> FileFacts:
    """A small file of the bundle, and its facts."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return file_facts(path)


def facts_of(aside: Path) -> dict[str, FileFacts]:
    """Facts of every file but the data file, whose hash is already known."""
    files = {path.relative_to(aside).as_posix(): path for path in sorted(aside.rglob("*")) if path.is_file()}
    return {name: file_facts(path) for name, path in files.items() if name != DATA}


def preview(checkpoint: Checkpoint, plan: Plan) -> Manifest:
    """The manifest that a bundle would have; no weights are read."""
    return _manifest(checkpoint, plan, {}, plan.recipe.quantization(matrices(checkpoint)))


def facts_of_model(spec: ModelSpec, context: int) -> ModelFacts:
    """The model as a manifest describes it, for sequences of up to `context` tokens."""
    return ModelFacts(
        family=spec.family,
        parameters=spec.parameters,
        num_layers=spec.num_layers,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        vocab_size=spec.vocab_size,
        context=context,
        tied_embeddings=spec.tied_embeddings,
    )


def _manifest(
    checkpoint: Checkpoint, plan: Plan, files: Mapping[str, FileFacts], quantization: Quantization
) -> Manifest:
    graphs = {
        name: GraphFacts(group.recipe.label, group.devices, kv, unsigned=_unsigned(name, group.recipe))
        for name, (group, kv) in plan.graphs().items()
    }
    return Manifest(
        name=plan.name,
        model=facts_of_model(checkpoint.spec, plan.context),
        quantization=quantization,
        devices=tuple(device for group in plan.device_groups for device in group.devices),
        generation=checkpoint.generation,
        origin=checkpoint.origin,
        edgert=__version__,
        files=files,
        graphs=graphs,
        requires=(ADAPTERS,) if plan.adapters else (),
        adapters={a.name: AdapterFacts(a.file, a.adapter.name) for a in plan.adapters},
    )
