"""How far a bundle's predictions are from a reference bundle's: python benchmarks/fidelity.py BUNDLE FP32."""

from __future__ import annotations

from dataclasses import dataclass

import click
import numpy as np
import numpy.typing as npt
from prose import prose

import edgert

WINDOW = 256  # tokens seen at once; the next window starts from nothing


@dataclass(frozen=True)
class Fidelity:
    """KL(reference ‖ bundle) in nats a token, and how often both think the same token the likeliest."""

    tokens: int
    mean_kl: float
    p99_kl: float
    top1: float

    def __str__(self) -> str:
        return (
            f"{self.tokens} tokens: mean KL {self.mean_kl:.4f}, 99th percentile {self.p99_kl:.4f}, "
            f"top-1 agreement {self.top1:.2%}"
        )


def measure(bundle: edgert.Model, reference: edgert.Model, text: str, windows: int = 32) -> Fidelity:
    """Compare the two on windows of a text. Raises ValueError if the text is too short."""
    ids = bundle.tokenizer.encode(text)[: windows * WINDOW]
    if len(ids) < windows * WINDOW:
        raise ValueError(f"the text has {len(ids)} tokens, {windows * WINDOW} are needed")
    kl, agree = [], []
    for start in range(0, len(ids), WINDOW):
        p, q = (log_softmax(model.logits(ids[start : start + WINDOW])) for model in (reference, bundle))
        kl.append((np.exp(p) * (p - q)).sum(-1))
        agree.append(p.argmax(-1) == q.argmax(-1))
    all_kl = np.concatenate(kl)
    return Fidelity(len(ids), float(all_kl.mean()), float(np.quantile(all_kl, 0.99)), float(np.mean(agree)))


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


@click.command()
@click.argument("bundle")
@click.argument("reference")
@click.option("--text", type=click.File(encoding="utf-8"), help="Another text than Python's manual.")
@click.option("--windows", default=32, show_default=True, help=f"Windows of {WINDOW} tokens.")
def main(bundle: str, reference: str, text: click.File | None, windows: int) -> None:
    """Measure BUNDLE against REFERENCE, usually an export of the same checkpoint with --quant fp32."""
    sample = text.read() if text else prose()  # type: ignore[attr-defined]
    click.echo(measure(edgert.load(bundle), edgert.load(reference), sample, windows))


if __name__ == "__main__":
    main()
