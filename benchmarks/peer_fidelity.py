"""How far the peers' quantizations are from fp32, on the same text and at the same positions as edgert's.

    python benchmarks/peer_fidelity.py [--checkpoint MODEL] [--bundle BUNDLE] [--optimum] [--json]

Everything starts from the same weights, dequantized if the checkpoint was quantized. llama.cpp is measured
by its own llama-perplexity against its own F32, edgert and Optimum against edgert's fp32 on the tokens that
llama-perplexity noted; the two references must agree.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import gguf
import llama_folder
import llama_gguf
import onnx_ir as ir
import optimum_export
import peers
import perplexity
from compare import student
from fidelity import compare
from prose import prose

import edgert
from edgert import home
from edgert.bundle import GRAPH, Fidelity
from edgert.export import ExportOptions, export
from edgert.export.source import open_checkpoint

KINDS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_1", "Q4_0")  # llama.cpp's recipes
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
    """All rows, the perplexity of every engine's fp32, and where they were measured."""

    windows: int
    first: int
    last: int
    bos: bool
    references: dict[str, float]
    rows: list[Row]


@click.command()
@click.option("--checkpoint", type=click.Path(exists=True, path_type=Path), help="Not the default student.")
@click.option("--kind", "kinds", multiple=True, default=KINDS, show_default=True, help="llama.cpp's recipe.")
@click.option("--bundle", "bundles", multiple=True, help="An edgert bundle of it, beside the default one.")
@click.option("--optimum", is_flag=True, help="Optimum too: installs PyTorch in a place of its own.")
@click.option("--text", type=click.File(encoding="utf-8"), help="Another text than Python's manual.")
@click.option("--windows", default=-1, help="How many windows of the text; all, unless told.")
@click.option("--json", "as_json", is_flag=True)
def main(
    checkpoint: Path | None,
    kinds: Sequence[str],
    bundles: Sequence[str],
    optimum: bool,
    text: click.File | None,
    windows: int,
    as_json: bool,
) -> None:
    """Measure llama.cpp's types, edgert's recipes and Optimum's default against fp32."""
    sample = text.read() if text else prose()  # type: ignore[attr-defined]
    place = home.home() / "benchmarks"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        bench = Bench(checkpoint or student(), Path(folder), sample, windows)
        results = bench.results(kinds, bundles, optimum)
    click.echo(json.dumps(asdict(results)) if as_json else table(results))


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
        """Everything measured. Stops if the references don't agree."""
        rows = [self._llama_cpp(kind) for kind in kinds]
        rows += [self._edgert(bundle) for bundle in (self._export("int8"), *bundles)]
        found = {"llama.cpp": self.base.perplexity, "edgert": rows[-1].fidelity.reference_perplexity}
        if optimum:
            more, found["Optimum"] = self._optimum()
            rows += more
        if max(found.values()) > AGREE * min(found.values()):
            raise SystemExit(f"the fp32 models disagree, perplexities {found}")
        last = perplexity.SKIP + perplexity.SCORED - 1
        return Results(len(self.tokens), perplexity.SKIP, last, self.bos, found, rows)

    def _f32(self, text: str) -> Path:
        target = self.folder / "F32.gguf"
        if self.source.is_dir():
            llama_gguf.write(self.checkpoint, target, text)
        else:
            peers.quantize(self.source, target, "F32")
        return target

    def _export(self, quant: edgert.export.Quant) -> str:
        return str(export(self.source, self.folder / quant, ExportOptions(quant=quant)).folder)

    def _tokens(self, text: str) -> tuple[bool, list[list[int]]]:
        """Whether windows begin with BOS, and the windows as llama.cpp feeds them.

        Stops if the checkpoint's tokenizer reads the text differently.
        """
        tokens = self.base.tokens
        if self.reference.tokenizer.encode(text)[: tokens.size] != tokens.ravel().tolist():
            raise SystemExit("edgert and llama.cpp read the text as different tokens")
        defaults = open_checkpoint(self.f32).generation
        if defaults.add_bos:
            tokens[:, 0] = defaults.bos_token_id
        return defaults.add_bos, tokens.tolist()

    def _llama_cpp(self, kind: str) -> Row:
        path = self.folder / f"{kind}.gguf"
        pairs = FALLBACK.findall(peers.quantize(self.f32, path, kind))
        fallbacks = Counter(f"{wanted} → {got}" for wanted, got in pairs)
        tensors = gguf.GGUFReader(path).tensors
        weights = sum(int(tensor.n_elements) for tensor in tensors)
        stored: Counter[str] = Counter()
        for tensor in tensors:
            stored[tensor.tensor_type.name] += int(tensor.n_elements) / weights
        bits = 8 * sum(int(tensor.n_bytes) for tensor in tensors) / weights
        found = perplexity.divergence(path, self.base)
        path.unlink()
        return Row("llama.cpp", kind, bits, found, dict(stored.most_common()), dict(fallbacks))

    def _edgert(self, name: str) -> Row:
        model = edgert.load(name)
        quantization = model.bundle.manifest.quantization
        sizes = ", ".join(f"{kind} {size}" for kind, size in quantization.block_size.items())
        recipe = f"{quantization.scheme} ({sizes})" if sizes else quantization.scheme
        return Row("edgert", recipe, self._bits(model.bundle.path(GRAPH)), self._compare(model))

    def _optimum(self) -> tuple[list[Row], float]:
        """Its int8, and the perplexity of its fp32."""
        folder = self.source
        if not folder.is_dir():
            folder = llama_folder.write(self.checkpoint, self.folder / "dequantized")
        exact = optimum_export.fp32(folder, self.folder / "optimum")
        graph = optimum_export.int8(exact, self.folder / "optimum-int8")
        rows = []
        for recipe, chunk in (("a window a run", perplexity.WINDOW), ("a token a run", 1)):
            found = self._compare(optimum_export.scorer(graph, chunk))
            rows.append(Row("Optimum", f"avx512_vnni, {recipe}", self._bits(graph), found))
        return rows, self._compare(optimum_export.scorer(exact, perplexity.WINDOW)).perplexity

    def _compare(self, model: edgert.Model | optimum_export.Scorer) -> Fidelity:
        return compare(model.logits, self.reference.logits, self.tokens, perplexity.SKIP)

    def _bits(self, graph: Path) -> float:
        return 8 * sum(_sizes(graph)) / self.checkpoint.spec.parameters


def _sizes(graph: Path) -> Iterator[int]:
    """Bytes of each stored weight of an ONNX model; tied tables are two initializers on the same bytes."""
    seen = set()
    for value in ir.load(graph).graph.initializers.values():
        tensor = value.const_value
        place = (tensor.location, tensor.offset) if isinstance(tensor, ir.ExternalTensor) else value.name
        if place not in seen and not value.name.startswith("rope."):  # tables of positions are no weights
            seen.add(place)
            yield tensor.nbytes


def table(results: Results) -> str:
    """Markdown: a row a quantization, then what was measured where, and what llama.cpp stored otherwise."""
    lines = [
        "| engine | recipe | bits a weight | mean KL | 99th percentile | top-1 | windows |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results.rows:
        f = row.fidelity
        figures = (
            f"{row.bits:.2f} | {f.mean_kl:.4f} | {f.p99_kl:.4f} | {100 * f.top1:.1f} % | {results.windows}"
        )
        lines.append(f"| {row.engine} | {row.recipe} | {figures} |")
    perplexities = ", ".join(f"{name} {value:.3f}" for name, value in results.references.items())
    bos = "BOS" if results.bos else "no BOS"
    lines += [
        "",
        f"Positions {results.first} to {results.last} of each window of {perplexity.WINDOW} tokens, "
        f"{bos} first. Perplexity in fp32: {perplexities}.",
        "",
    ]
    return "\n".join([*lines, *(_stored(row) for row in results.rows if row.stored)])


def _stored(row: Row) -> str:
    shares = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in row.stored.items())
    fallbacks = ", ".join(f"{count} × {pair}" for pair, count in row.fallbacks.items())
    return f"- {row.recipe}: {shares}{'; fell back: ' + fallbacks if fallbacks else ''}"


if __name__ == "__main__":
    main()
