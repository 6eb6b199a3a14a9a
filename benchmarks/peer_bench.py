"""A checkpoint, its two fp32 references, and every engine's quantization measured against its own."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import gguf
import llama_folder
import llama_gguf
import onnx_ir as ir
import optimum_export
import peers
import perplexity
from fidelity import compare

import edgert
from edgert.bundle import GRAPH, Fidelity
from edgert.export import ExportOptions, Quant, export
from edgert.export.checkpoint.source import open_checkpoint

AGREE = 1.001  # the most that the references' perplexities may differ by
FALLBACK = re.compile(r"required for type\s+(\w+)\).*-> falling back to\s+(\w+)")


@dataclass(frozen=True)
class Row:
    """One quantization. `stored`: the share of the weights in each type; `fallbacks`: how many matrices
    llama.cpp stored in another type than its recipe says, because their rows don't fill its blocks.
    """

    engine: str
    recipe: str
    bits: float
    fidelity: Fidelity
    stored: dict[str, float] = field(default_factory=dict)
    fallbacks: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """All rows, the perplexity of every engine's fp32, and where they were measured.

    `checkpoint`: the share of its weights in each type, if it is a GGUF file.
    """

    checkpoint: dict[str, float]
    windows: int
    first: int
    last: int
    bos: bool
    references: dict[str, float]
    rows: list[Row]


class Bench:
    """A checkpoint and its two fp32 references, on the windows of a text."""

    def __init__(self, source: Path, folder: Path, text: str, windows: int) -> None:
        self.source, self.folder = source, folder
        self.checkpoint = open_checkpoint(source)
        self.f32 = self._f32(text)
        sample = folder / "text.txt"
        sample.write_text(text, "utf-8", newline="\n")
        self.base = perplexity.reference(self.f32, sample, folder / "base", windows)
        self.reference = edgert.load(self._export("fp32"))
        self.bos, self.tokens = self._tokens(text)

    def results(self, kinds: Sequence[str], bundles: Sequence[str], optimum: bool) -> Results:
        """Everything measured: `bundles`, or else int8. Stops if the references don't agree."""
        folder = self._folder() if optimum else None  # first: it may refuse
        rows = [_noted(self._edgert(bundle)) for bundle in bundles or (self._export("int8"),)]
        found = {"llama.cpp": self.base.perplexity, "edgert": rows[0].fidelity.reference_perplexity}
        _check(found)
        rows += [_noted(self._llama_cpp(kind)) for kind in kinds]
        if folder:
            more, found["Optimum"] = self._optimum(folder)
            rows += more
            _check(found)
        last = perplexity.SKIP + perplexity.SCORED - 1
        stored = {} if self.source.is_dir() else _shares(gguf.GGUFReader(self.source).tensors)
        return Results(stored, len(self.tokens), perplexity.SKIP, last, self.bos, found, rows)

    def _f32(self, text: str) -> Path:
        target = self.folder / "F32.gguf"
        if self.source.is_dir():
            llama_gguf.write(self.checkpoint, target, text)
        else:
            peers.quantize(self.source, target, "F32")
        return target

    def _export(self, quant: Quant) -> str:
        options = ExportOptions(quant=quant, verify=False)  # it is measured here
        return str(export(self.source, self.folder / quant, options).folder)

    def _tokens(self, text: str) -> tuple[bool, list[list[int]]]:
        """Whether windows begin with BOS, and the windows as llama.cpp feeds them.

        Stops if the checkpoint's tokenizer reads the text differently.
        """
        tokens = self.base.tokens
        if self.reference.tokenizer.encode(text)[: tokens.size] != tokens.ravel().tolist():
            raise SystemExit("edgert and llama.cpp read the text as different tokens")
        defaults = open_checkpoint(self.f32).generation
        if defaults.add_bos and defaults.bos_token_id is not None:
            tokens[:, 0] = defaults.bos_token_id
        return defaults.add_bos, tokens.tolist()

    def _llama_cpp(self, kind: str) -> Row:
        path = self.folder / f"{kind}.gguf"
        pairs = FALLBACK.findall(peers.quantize(self.f32, path, kind))
        fallbacks = Counter(f"{wanted} → {got}" for wanted, got in pairs)
        tensors = gguf.GGUFReader(path).tensors
        bits = 8 * sum(int(tensor.n_bytes) for tensor in tensors) / _weights(tensors)
        found = perplexity.divergence(path, self.base)
        path.unlink()
        return Row("llama.cpp", kind, bits, found, _shares(tensors), dict(fallbacks))

    def _edgert(self, name: str) -> Row:
        model = edgert.load(name)
        quantization = model.bundle.manifest.quantization
        sizes = ", ".join(f"{kind} {size}" for kind, size in quantization.block_size.items())
        recipe = f"{quantization.scheme} ({sizes})" if sizes else quantization.scheme
        return Row("edgert", recipe, self._bits(model.bundle.path(GRAPH)), self._compare(model))

    def _folder(self) -> Path:
        """The checkpoint as Optimum reads it."""
        if self.source.is_dir():
            return self.source
        return llama_folder.write(self.checkpoint, self.folder / "dequantized")

    def _optimum(self, folder: Path) -> tuple[list[Row], float]:
        """Its int8, and the perplexity of its fp32."""
        exact = optimum_export.fp32(folder, self.folder / "optimum")
        graph = optimum_export.int8(exact, self.folder / "optimum-int8")
        rows = []
        for recipe, chunk in (("one window per run", perplexity.WINDOW), ("one token per run", 1)):
            found = self._compare(optimum_export.scorer(graph, chunk))
            rows.append(_noted(Row("Optimum", f"avx512_vnni, {recipe}", self._bits(graph), found)))
        return rows, self._compare(optimum_export.scorer(exact, perplexity.WINDOW)).perplexity

    def _compare(self, model: edgert.Model | optimum_export.Scorer) -> Fidelity:
        return compare(model.logits, self.reference.logits, self.tokens, perplexity.SKIP)

    def _bits(self, graph: Path) -> float:
        return 8 * sum(_sizes(graph)) / self.checkpoint.spec.parameters


def _shares(tensors: Sequence[gguf.ReaderTensor]) -> dict[str, float]:
    """The share of the weights in each type, the largest first."""
    stored: defaultdict[str, float] = defaultdict(float)
    for tensor in tensors:
        stored[tensor.tensor_type.name] += int(tensor.n_elements) / _weights(tensors)
    return dict(sorted(stored.items(), key=lambda pair: -pair[1]))


def _weights(tensors: Sequence[gguf.ReaderTensor]) -> int:
    return sum(int(tensor.n_elements) for tensor in tensors)


def _noted(row: Row) -> Row:
    """The row, also on the terminal: all of them can take forty minutes."""
    click.echo(f"{row.engine} {row.recipe}: {row.fidelity}", err=True)
    return row


def _check(references: dict[str, float]) -> None:
    if max(references.values()) > AGREE * min(references.values()):
        raise SystemExit(f"the fp32 models disagree, perplexities {references}")


ROPES = ("rope.", "local_rope.")


def _sizes(graph: Path) -> Iterator[int]:
    """Bytes of each stored weight of an ONNX model; tied tables are two initializers on the same bytes."""
    seen = set()
    for value in ir.load(graph).graph.initializers.values():
        tensor = value.const_value
        assert tensor is not None
        place = (tensor.location, tensor.offset) if isinstance(tensor, ir.ExternalTensor) else value.name
        if place not in seen and not str(value.name).startswith(ROPES):  # tables of positions are no weights
            seen.add(place)
            yield tensor.nbytes
