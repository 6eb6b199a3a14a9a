"""Both roads: what an export of the same student costs, directly and by way of Optimum, and what comes of it.

    python benchmarks/roads.py CHECKPOINT [--rounds 5]     # needs the [optimum] extra; Linux

CHECKPOINT is a Hugging Face folder of a family that both roads know, or a Llama as GGUF. Memory is that of
all processes together. In a round of the bench the two bundles take turns.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
import llama_folder
import process_tree

from edgert.bench.figures import Bench
from edgert.bench.footprint import Opening
from edgert.bench.measure import Wanted, measure
from edgert.bench.peers import Rival
from edgert.bundle import GRAPH, open_bundle
from edgert.export.checkpoint.source import open_checkpoint

ROADS = ("direct", "optimum")
DEPTHS = (0, 512)
HEAD = (
    "road",
    "export (of processors)",
    "its peak memory",
    "bundle",
    "mean KL",
    "top-1",
    "prefill of 512 tokens",
    *(f"decode after {depth}" for depth in DEPTHS),
)


@dataclass(frozen=True)
class Speeds:
    """Tokens per second: of the prompt, and of decoding at each depth."""

    prefill: float
    decode: tuple[float, ...]


@click.command
@click.argument("checkpoint", type=click.Path(exists=True, path_type=Path))
@click.option("--rounds", default=5, show_default=True)
@click.option("--context", default=1024, show_default=True, help="Tokens that the cache can hold.")
def main(checkpoint: Path, rounds: int, context: int) -> None:
    """Measure and print a table."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        if checkpoint.is_file():
            checkpoint = llama_folder.write(open_checkpoint(checkpoint), root / "checkpoint")
        edgert = (sys.executable, "-m", "edgert", "export")
        costs = [process_tree.measure(*edgert, checkpoint, root / via, "--via", via) for via in ROADS]
        bench = measure(
            Opening(str(root / ROADS[0]), None, context, None, False),
            Wanted(DEPTHS, rounds, [Rival("edgert", str(root / ROADS[1]))]),
            lambda _done, _total: None,
        )
        print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
        for via, cost, speeds in zip(ROADS, costs, _speeds(bench), strict=True):
            print(f"| {' | '.join([via, *_cells(root / via, cost), *_rates(speeds)])} |")


def _speeds(bench: Bench) -> tuple[Speeds, Speeds]:
    other = bench.against[0]
    return (
        Speeds(bench.prefill.median, tuple(at.decode.median for at in bench.depths)),
        Speeds(other.prefill.median, tuple(at.decode.median for at in other.depths)),
    )


def _cells(folder: Path, cost: process_tree.Cost) -> list[str]:
    bundle = open_bundle(folder)
    fidelity = bundle.manifest.graphs[GRAPH].fidelity
    measured = [f"{fidelity.mean_kl:.4f}", f"{fidelity.top1:.1%}"] if fidelity else ["-", "-"]
    seconds = f"{cost.seconds:.0f} s ({cost.cpu:.0f} s)"
    return [seconds, f"{cost.peak / 1e6:,.0f} MB", f"{bundle.size / 1e6:.0f} MB", *measured]


def _rates(speeds: Speeds) -> list[str]:
    return [f"{rate:.0f}" for rate in (speeds.prefill, *speeds.decode)]


if __name__ == "__main__":
    main()
