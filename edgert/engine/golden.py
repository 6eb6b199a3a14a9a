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
from edgert.engine.decoder import Decoder, Logits
from edgert.engine.fidelity import log_softmax
from edgert.errors import BundleError

TEXTS = (
    "The capital of France is Paris, and the capital of Italy is",
    "def add(a, b):\n    return a + b\n\ndef multiply(a, b):\n    return",
    "If one apple costs 3 coins, then 14 apples cost 42",
)
LONGEST_TEXT = 256  # tokens per text: attention has kernels of its own for long prompts
KEPT_TOKENS = 16  # likeliest tokens per position
KEPT_POSITIONS = 32  # of a text, evenly spread
DECODED_TOKENS = 4  # tokens at the end that are fed one at a time

# Kernels round differently, about as much as the export itself has: more than this many times that is wrong.
# Measured on tiny models: WebGPU where it is right 0.2 times, where a kernel is wrong 7 to 28 times.
ROUNDING_TIMES, LEAST_KL, MOST_KL = 4, 0.001, 0.2


@dataclass(frozen=True)
class Golden:
    """A text's tokens, and after some of them the likeliest next ones, (positions, KEPT_TOKENS), with log
    probabilities.
    """

    tokens: tuple[int, ...]
    positions: Sequence[int]
    ids: Sequence[Sequence[int]]
    logprobs: Sequence[Sequence[float]]


def record(decoder: Decoder, texts: Sequence[Sequence[int]]) -> list[Golden]:
    """What a decoder predicts after tokens of some texts, cut to what its context holds."""
    cut = [tokens[: min(LONGEST_TEXT, decoder.capacity)] for tokens in texts]
    return [_golden(tokens, decoder.score(tokens)) for tokens in cut]


def _golden(tokens: Sequence[int], logits: Logits) -> Golden:
    count = len(tokens)
    spread = range(0, count, -(-count // KEPT_POSITIONS))
    positions = sorted({*spread, *range(max(0, count - DECODED_TOKENS - 1), count)})
    logprobs = log_softmax(logits[positions])
    ids = np.argsort(-logprobs, axis=1)[:, :KEPT_TOKENS]
    values = np.take_along_axis(logprobs, ids, axis=1)
    return Golden(tuple(tokens), positions, ids.tolist(), np.round(values.astype(float), 4).tolist())


def replay(decoder: Decoder, goldens: Sequence[Golden]) -> float:
    """KL of a decoder's predictions from the golden ones, in nats, mean of the worst text: over the kept
    tokens and all others together, as prefill and a token at a time. Infinite where it gives no numbers.
    """
    found = []
    for golden in goldens:
        tokens = list(golden.tokens[: decoder.capacity])
        read = max(1, len(tokens) - DECODED_TOKENS)
        found.append(_divergence(golden, 0, decoder.score(tokens)))
        slot = decoder.afresh()
        steps = [decoder.extend(slot, tokens[:read])[0]]
        steps += [decoder.decode([slot], [token])[0].copy() for token in tokens[read:]]
        found.append(_divergence(golden, read - 1, np.array(steps)))
    decoder.afresh()
    known = [kl for kl in found if kl is not None]
    return float(max(known, default=0.0))


def _divergence(golden: Golden, first: int, logits: Logits) -> float | None:
    """Mean KL where logits, those after token `first` and the following, meet the kept positions."""
    places = [(kept, at - first) for kept, at in enumerate(golden.positions) if 0 <= at - first < len(logits)]
    if not places:
        return None
    rows, at = (list(numbers) for numbers in zip(*places, strict=True))
    if not np.isfinite(logits[at]).all():
        return float("inf")
    expected, ids = np.array(golden.logprobs)[rows], np.array(golden.ids)[rows]
    found = np.take_along_axis(log_softmax(logits[at]), ids, axis=1).astype(float)
    kept = (np.exp(expected) * (expected - found)).sum(axis=1)
    others, theirs = (np.maximum(1 - np.exp(part).sum(axis=1), 1e-6) for part in (expected, found))
    return float(np.mean(kept + others * np.log(others / theirs)))


def limit(bundle: Bundle) -> float:
    """The most that `replay` may give where a machine computes right, by what the export lost itself."""
    measured = [facts.fidelity.mean_kl for facts in bundle.manifest.graphs.values() if facts.fidelity]
    return min(MOST_KL, max(LEAST_KL, ROUNDING_TIMES * max(measured, default=MOST_KL)))


def to_json(goldens: Sequence[Golden]) -> str:
    return json.dumps([vars(golden) for golden in goldens]) + "\n"


def read(bundle: Bundle) -> list[Golden]:
    """A bundle's golden prompts; none if it was exported without measuring. Raises BundleError."""
    try:
        return [_from_json(table) for table in json.loads(bundle.text(GOLDEN) or "[]")]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{bundle.path(GOLDEN)}: not valid ({error}); export or pull it again") from error


def _from_json(table: Mapping[str, Any]) -> Golden:
    return Golden(tuple(table["tokens"]), table["positions"], table["ids"], table["logprobs"])
