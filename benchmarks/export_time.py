"""What an export costs, by what is asked for: seconds, memory of all processes, and what the bundle is worth.

    python benchmarks/export_time.py CHECKPOINT [-o "--quick"] [-o "--quant int4"]      # Linux

Each `-o` is one export, with these options of `edgert export`; without any: int8 and int4, whole and quick.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path

import click
import process_tree

from edgert.bundle import open_bundle

USUAL = ("--quick", "", "--quick --quant int4", "--quant int4")
HEAD = ("options", "time", "of processors", "peak memory", "bundle", "mean KL", "top-1")


@click.command
@click.argument("checkpoint", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--options", multiple=True, default=USUAL, help="Of one export; repeat it for more.")
def main(checkpoint: Path, options: tuple[str, ...]) -> None:
    """Measure and print a table."""
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for words in options:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "bundle"
            command = (sys.executable, "-m", "edgert", "export", checkpoint, folder, *shlex.split(words))
            cost = process_tree.measure(*command)
            print(f"| {' | '.join([f'`{words}`' if words else 'none', *_cells(folder, cost)])} |", flush=True)


def _cells(folder: Path, cost: process_tree.Cost) -> list[str]:
    bundle = open_bundle(folder)
    fidelity = bundle.manifest.graphs[bundle.graph()].fidelity
    told = [f"{fidelity.mean_kl:.4f}", f"{fidelity.top1:.1%}"] if fidelity else ["not measured", ""]
    megabytes = [f"{size / 1e6:,.0f} MB" for size in (cost.peak, bundle.size)]
    return [f"{cost.seconds:.0f} s", f"{cost.cpu:.0f} s", *megabytes, *told]


if __name__ == "__main__":
    main()
