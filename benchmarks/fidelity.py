"""How far a bundle's predictions are from a reference bundle's: python benchmarks/fidelity.py BUNDLE FP32."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import click
import numpy as np
from prose import prose

import edgert
from edgert.bundle import Fidelity
from edgert.engine.fidelity import Logits, Tally, diverge

Scorer = Callable[[Sequence[int]], Logits]  # token ids → logits after each of them


def measure(
    bundle: edgert.Model,
    reference: edgert.Model,
    text: str,
    windows: int = 32,
    window: int = 256,
    skip: int = 0,
    stride: int | None = None,
) -> Fidelity:
    """Compare the two on windows of a text that start every `stride` tokens, without it end to end.

    Raises ValueError if the text is too short.
    """
    stride = stride or window
    ids = bundle.tokenizer.encode(text)
    needed = (windows - 1) * stride + window + 1
    if len(ids) < needed:
        raise ValueError(f"the text has {len(ids)} tokens, {needed} are needed")
    rows = [ids[start : start + window + 1] for start in range(0, windows * stride, stride)]
    return compare(bundle.logits, reference.logits, rows, skip)


def compare(model: Scorer, reference: Scorer, rows: Iterable[Sequence[int]], skip: int) -> Fidelity:
    """Compare two models on rows of token ids, each from an empty cache: at every position that has its
    next token in the row, but the first `skip`.
    """
    tally = Tally()
    for row in rows:
        p, q = (logits(row[:-1])[skip:] for logits in (reference, model))
        tally.add(diverge(p, q, np.array(row[skip + 1 :])))
    return tally.fidelity


@click.command()
@click.argument("bundle")
@click.argument("reference")
@click.option("--text", type=click.File(encoding="utf-8"), help="Another text than Python's manual.")
@click.option("--windows", default=32, show_default=True, help="How many windows of the text.")
@click.option("--window", default=256, show_default=True, help="Tokens in a window.")
@click.option("--skip", default=0, show_default=True, help="Positions of each window that are not counted.")
@click.option("--stride", type=int, help="Tokens from a window's start to the next's; as many as in one.")
def main(
    bundle: str,
    reference: str,
    text: click.File | None,
    windows: int,
    window: int,
    skip: int,
    stride: int | None,
) -> None:
    """Measure BUNDLE against REFERENCE, usually an export of the same checkpoint with --quant fp32.

    `--window 511 --stride 512 --skip 256` scores what llama-perplexity does with a context of 512.
    """
    sample = text.read() if text else prose()  # type: ignore[attr-defined]
    click.echo(measure(edgert.load(bundle), edgert.load(reference), sample, windows, window, skip, stride))


if __name__ == "__main__":
    main()
