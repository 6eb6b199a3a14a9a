"""How far a bundle's predictions are from a reference bundle's: python benchmarks/fidelity.py BUNDLE FP32."""

from __future__ import annotations

import click
import numpy as np
from prose import prose

import edgert
from edgert.bundle import Fidelity
from edgert.fidelity import Tally, diverge


def measure(
    bundle: edgert.Model,
    reference: edgert.Model,
    text: str,
    windows: int = 32,
    window: int = 256,
    skip: int = 0,
) -> Fidelity:
    """Compare the two on windows of a text, each from an empty cache, ignoring the first `skip` positions
    of each (llama-perplexity ignores half). Raises ValueError if the text is too short.
    """
    ids = bundle.tokenizer.encode(text)[: windows * window + 1]
    if len(ids) <= windows * window:
        raise ValueError(f"the text has {len(ids)} tokens, {windows * window + 1} are needed")
    tally = Tally()
    for start in range(0, len(ids) - 1, window):
        p, q = (model.logits(ids[start : start + window])[skip:] for model in (reference, bundle))
        tally.add(diverge(p, q, np.array(ids[start + 1 + skip : start + 1 + window])))
    return tally.fidelity


@click.command()
@click.argument("bundle")
@click.argument("reference")
@click.option("--text", type=click.File(encoding="utf-8"), help="Another text than Python's manual.")
@click.option("--windows", default=32, show_default=True, help="How many windows of the text.")
@click.option("--window", default=256, show_default=True, help="Tokens in a window.")
@click.option("--skip", default=0, show_default=True, help="Positions of each window that are not counted.")
def main(bundle: str, reference: str, text: click.File | None, windows: int, window: int, skip: int) -> None:
    """Measure BUNDLE against REFERENCE, usually an export of the same checkpoint with --quant fp32."""
    sample = text.read() if text else prose()  # type: ignore[attr-defined]
    click.echo(measure(edgert.load(bundle), edgert.load(reference), sample, windows, window, skip))


if __name__ == "__main__":
    main()
