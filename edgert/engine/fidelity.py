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

ROWS = 32  # positions at a time: 19 MB per array at a vocabulary of 152k


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
        every = join(self.parts)
        return Fidelity(
            tokens=len(every.kl),
            mean_kl=float(every.kl.mean()),
            p99_kl=float(np.quantile(every.kl, 0.99)),
            top1=float(every.agrees.mean()),
            perplexity=float(np.exp(every.nll.mean())),
            reference_perplexity=float(np.exp(every.reference_nll.mean())),
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
    slices = [slice(start, start + ROWS) for start in range(0, len(following), ROWS)]
    return join([_diverge(reference[part], logits[part], following[part]) for part in slices])


def _diverge(reference: Logits, logits: Logits, following: Tokens) -> Divergence:
    p, q = log_softmax(reference), log_softmax(logits)
    rows = np.arange(len(following))
    return Divergence(
        (np.exp(p) * (p - q)).sum(-1, dtype=np.float64),
        p.argmax(-1) == q.argmax(-1),
        -q[rows, following].astype(np.float64),
        -p[rows, following].astype(np.float64),
    )


def log_softmax(logits: Logits) -> Logits:
    """Natural logarithms of the probabilities along the last axis, summed up in float64."""
    shifted: Logits = logits - logits.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True, dtype=np.float64)).astype(np.float32)
    return shifted
