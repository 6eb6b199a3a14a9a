"""edgert's own recipes side by side: python benchmarks/recipes.py CHECKPOINT [RECIPE ...]."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import fidelity
from prose import prose

import edgert
from edgert.export import ExportOptions, export

# Windows and positions of llama-perplexity with a context of 512: comparable with peer_fidelity.py.
LIKE_LLAMA = {"windows": 27, "window": 511, "stride": 512, "skip": 256}


@dataclass(frozen=True)
class Row:
    """A recipe: how it is asked for, and which cache it is run with."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    kv: str = "fp32"


ROWS = (
    Row("int8"),
    Row("int8, int8 KV", {"kv": "int8"}, "int8"),
    Row("int8, blocks of 64", {"block_size": 64}),
    Row("int8, blocks of 32", {"block_size": 32}),
    Row("int8, blocks of 16", {"block_size": 16}),
    Row("int8, not calibrated", {"calibrate": False}),
    Row("int4", {"quant": "int4"}),
    Row("int4, not calibrated", {"quant": "int4", "calibrate": False}),
    Row("int4, blocks of 32", {"quant": "int4", "block_size": 32}),
)


def measure(checkpoint: Path, row: Row, reference: edgert.Model, folder: Path) -> str:
    """Export, compare, and a line of Markdown."""
    bundle = export(checkpoint, folder / row.name, ExportOptions(verify=False, **row.options))
    found = fidelity.measure(edgert.load(bundle.folder, kv=row.kv), reference, prose(), **LIKE_LLAMA)
    bits = bundle.manifest.quantization.bits_per_weight
    return f"| {row.name} | {bits:.2f} | {found.mean_kl:.4f} | {found.p99_kl:.4f} | {found.top1:.1%} |"


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.argument("names", nargs=-1)
def main(checkpoint: Path, names: tuple[str, ...]) -> None:
    """Export CHECKPOINT in each recipe, or those named, and measure it against fp32 on held-out text."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        reference = edgert.load(export(checkpoint, folder / "fp32", ExportOptions(quant="fp32")).folder)
        click.echo("| recipe | bits per weight | mean KL | 99th percentile | top-1 |\n|---|---|---|---|---|")
        for row in ROWS:
            if not names or row.name in names:
                click.echo(measure(checkpoint, row, reference, folder))


if __name__ == "__main__":
    main()
