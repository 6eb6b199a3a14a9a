"""Golden prompts: a few texts whose predictions travel with a bundle, so that any machine can check its own.

A provider, a kernel or a packed copy that computes something else shows at once, whatever the reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgert.bundle import GOLDEN, Bundle
from edgert.decoder import Decoder, Logits
from edgert.errors import BundleError
from edgert.fidelity import log_softmax

TEXTS = (
    "The capital of France is Paris, and the capital of Italy is",
    "def add(a, b):\n    return a + b\n\ndef multiply(a, b):\n    return",
    "If one apple costs 3 coins, then 14 apples cost 42",
)
LONGEST = 24  # tokens a text
KEPT = 16  # likeliest tokens a position
DECODED = 4  # tokens at the end that are fed one at a time

# Kernels round differently: KL of 0.01 is common between processors. Wrong ones are above 1.
LIMIT = 0.1


@dataclass(frozen=True)
class Golden:
    """A text's tokens, and after each the likeliest next ones, (tokens, KEPT), with log probabilities."""

    tokens: tuple[int, ...]
    ids: Sequence[Sequence[int]]
    logprobs: Sequence[Sequence[float]]


def record(decoder: Decoder, texts: Sequence[Sequence[int]]) -> list[Golden]:
    """What a decoder predicts after every token of some texts."""
    return [_golden(tokens, log_softmax(decoder.logits(tokens))) for tokens in texts]


def _golden(tokens: Sequence[int], logprobs: Logits) -> Golden:
    ids = np.argsort(-logprobs, axis=1)[:, :KEPT]
    values = np.take_along_axis(logprobs, ids, axis=1)
    return Golden(tuple(tokens), ids.tolist(), np.round(values.astype(float), 4).tolist())


def replay(decoder: Decoder, goldens: Sequence[Golden]) -> float:
    """Mean KL of a decoder's predictions from the golden ones, in nats: over the kept tokens and all others
    together, both as prefill and a token at a time. Infinite where it gives something that is no number.
    """
    found = []
    for golden in goldens:
        tokens = list(golden.tokens)
        found.append(_divergence(golden, decoder.logits(tokens)))
        read = max(1, len(tokens) - DECODED)
        decoder.forget()
        steps = [decoder.prefill(tokens[:read]).copy()]
        steps += [decoder.decode(token).copy() for token in tokens[read:]]
        last = Golden(golden.tokens, golden.ids[read - 1 :], golden.logprobs[read - 1 :])
        found.append(_divergence(last, np.array(steps)))
    return float(np.mean(found))


def _divergence(golden: Golden, logits: Logits) -> float:
    if not np.isfinite(logits).all():
        return float("inf")
    expected = np.array(golden.logprobs)
    found = np.take_along_axis(log_softmax(logits), np.array(golden.ids), axis=1).astype(float)
    kept = (np.exp(expected) * (expected - found)).sum(axis=1)
    others, theirs = (np.maximum(1 - np.exp(part).sum(axis=1), 1e-6) for part in (expected, found))
    return float(np.mean(kept + others * np.log(others / theirs)))


def to_json(goldens: Sequence[Golden]) -> str:
    return json.dumps([vars(golden) for golden in goldens]) + "\n"


def read(bundle: Bundle) -> list[Golden]:
    """A bundle's golden prompts; none if it was exported without measuring. Raises BundleError."""
    try:
        return [_from_json(table) for table in json.loads(bundle.text(GOLDEN) or "[]")]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{bundle.path(GOLDEN)}: not valid ({error}); export or pull it again") from error


def _from_json(table: Mapping[str, Any]) -> Golden:
    return Golden(tuple(table["tokens"]), table["ids"], table["logprobs"])
