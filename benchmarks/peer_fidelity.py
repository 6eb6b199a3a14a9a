"""How far the peers' quantizations are from fp32, on the same text and at the same positions as edgert's.

    python benchmarks/peer_fidelity.py [--checkpoint MODEL] [--bundle BUNDLE] [--optimum] [--json]

Everything starts from the same weights, dequantized if the checkpoint was quantized. llama.cpp is measured
by its own llama-perplexity against its own F32, edgert and Optimum against edgert's fp32 on the tokens that
llama-perplexity noted; the two references must agree.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import click
import perplexity
from compare import student
from peer_bench import Bench, Results, Row
from prose import prose

from edgert import home

KINDS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_1", "Q4_0")  # llama.cpp's recipes


@click.command()
@click.option("--checkpoint", type=click.Path(exists=True, path_type=Path), help="Not the default student.")
@click.option("--kind", "kinds", multiple=True, default=KINDS, show_default=True, help="llama.cpp's recipe.")
@click.option(
    "--bundle", "bundles", multiple=True, help="An edgert bundle of it; int8 is exported unless told."
)
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


def table(results: Results) -> str:
    """Markdown: a row a quantization, then what was measured where, and what llama.cpp stored otherwise."""
    lines = [
        "| engine | recipe | bits per weight | mean KL | 99th percentile | top-1 | windows |",
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
    if results.checkpoint:
        again = "what a type stored is stored by it again almost exactly"
        lines.append(f"- the checkpoint: {_shares(results.checkpoint)}; {again}")
    return "\n".join([*lines, *(_stored(row) for row in results.rows if row.stored)])


def _shares(stored: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in stored.items())


def _stored(row: Row) -> str:
    fallbacks = ", ".join(f"{count} × {pair}" for pair, count in row.fallbacks.items())
    return f"- {row.recipe}: {_shares(row.stored)}{'; fell back: ' + fallbacks if fallbacks else ''}"


if __name__ == "__main__":
    main()
