"""Fidelity: how far one model's predictions are from another's, position by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgert.bundle import Fidelity

Logits = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.integer]
Figures = npt.NDArray[np.float64]

NUMBERS = 1 << 18  # logits at a time: a megabyte, so that they stay in the cache


@dataclass(frozen=True)
class Divergence:
    """One entry per position, (positions,): KL in nats, whether both prefer the same token, and the negative
    log-likelihood of the token that follows under either model.
    """

    kl: Figures
    agrees: npt.NDArray[np.bool_]
    nll: Figures
    reference_nll: Figures


@dataclass
class Tally:
    """Collects windows of a text; `fidelity` sums them up."""

    parts: list[Divergence] = field(default_factory=list)

    def add(self, part: Divergence) -> None:
        self.parts.append(part)

    @property
    def fidelity(self) -> Fidelity:
        """Of everything added so far. Raises ValueError if that is nothing."""
        every, means = join(self.parts), [part.kl.mean() for part in self.parts]
        return Fidelity(
            tokens=len(every.kl),
            mean_kl=float(every.kl.mean()),
            p99_kl=float(np.quantile(every.kl, 0.99)),
            top1=float(every.agrees.mean()),
            perplexity=float(np.exp(every.nll.mean())),
            reference_perplexity=float(np.exp(every.reference_nll.mean())),
            kl_error=float(np.std(means, ddof=1) / np.sqrt(len(means))) if len(means) > 1 else 0.0,
        )


def join(parts: Sequence[Divergence]) -> Divergence:
    """One behind the other."""
    return Divergence(
        np.concatenate([part.kl for part in parts]),
        np.concatenate([part.agrees for part in parts]),
        np.concatenate([part.nll for part in parts]),
        np.concatenate([part.reference_nll for part in parts]),
    )


def diverge(reference: Logits, logits: Logits, following: Tokens) -> Divergence:
    """Compare two models' logits (positions, vocab) on a text; `following` (positions,): the next tokens."""
    step = max(1, NUMBERS // reference.shape[-1])
    slices = [slice(start, start + step) for start in range(0, len(following), step)]
    return join([_diverge(reference[part], logits[part], following[part]) for part in slices])


def _diverge(reference: Logits, logits: Logits, following: Tokens) -> Divergence:
    """With p = exp(a) / A and q = exp(b) / B: KL is the mean of a - b under p, plus log(B / A)."""
    (a, likeliest), (b, others) = _shifted(reference), _shifted(logits)
    rows = np.arange(len(following))
    weights, differences = np.exp(a), a - b
    total, other_total = weights.sum(-1, dtype=np.float64), np.exp(b).sum(-1, dtype=np.float64)
    differences *= weights
    return Divergence(
        differences.sum(-1, dtype=np.float64) / total + np.log(other_total / total),
        likeliest == others,
        np.log(other_total) - b[rows, following],
        np.log(total) - a[rows, following],
    )


def _shifted(logits: Logits) -> tuple[Logits, npt.NDArray[np.intp]]:
    """Less the largest of each position, which is where."""
    likeliest = logits.argmax(-1)
    shifted: Logits = logits - logits[np.arange(len(logits)), likeliest, None]
    return shifted, likeliest


def log_softmax(logits: Logits) -> Logits:
    """Natural logarithms of the probabilities along the last axis, summed up in float64."""
    shifted: Logits = logits - logits.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True, dtype=np.float64)).astype(np.float32)
    return shifted
