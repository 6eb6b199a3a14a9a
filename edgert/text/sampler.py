"""Sampler: logits and a history to a token. Small pure functions, applied in one order.

    bias → repetition, presence and frequency penalties → mask → temperature → top-k → top-p → min-p → draw

Temperature comes before the filters, as in transformers and vLLM: the settings that model cards
recommend (0.6 and 0.95 for the R1 distills) were chosen with that order. Temperature 0 is argmax, and so
is anything below GREEDY_TEMPERATURE, where float32 would overflow.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real

import numpy as np
import numpy.typing as npt

from edgert.errors import UsageError

FloatArray = npt.NDArray[np.float32]
IdArray = npt.NDArray[np.intp]


RANGES: Mapping[str, tuple[type, float, float]] = {
    "temperature": (float, 0, 100),
    "top_k": (int, 0, 2**31),
    "top_p": (float, 0, 1),
    "min_p": (float, 0, 1),
    "repetition_penalty": (float, 0.01, 100),
    "presence_penalty": (float, -2, 2),
    "frequency_penalty": (float, -2, 2),
    "logprobs": (int, 0, 100),
    "seed": (int, 0, 2**63),
}
GREEDY_TEMPERATURE = 1e-3
LIKELY = np.float32(1e-4)  # times the best: of a large vocabulary, few are, and they mostly reach any top-p
FEW = (256, 4096)  # tokens that are sorted in no time
MAY_BE_NONE = ("logprobs", "seed")


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens.

    top_k 0, top_p 1, min_p 0 and penalties of 1, 0, 0 are off. `logit_bias` adds to the logits of token ids.
    A `seed` draws the same random numbers again.
    `logprobs`: how many alternatives to report with each token's log-probability; None reports none.
    Raises UsageError for values out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, (kind, low, high) in RANGES.items():
            value = getattr(self, name)
            whole = isinstance(value, Integral) and not isinstance(value, bool)
            if value is None and name in MAY_BE_NONE:
                continue
            if not (whole or (kind is float and isinstance(value, Real))) or not low <= value <= high:
                number = "a whole number" if kind is int else "a number"
                raise UsageError(f"{name} must be {number} between {low} and {high}, not {value!r}")
        if not isinstance(self.logit_bias, Mapping):
            raise UsageError(f"logit_bias must map token ids to numbers, not {self.logit_bias!r}")
        for token, bias in self.logit_bias.items():
            if not isinstance(token, int) or not isinstance(bias, int | float) or not abs(bias) <= 1e6:
                raise UsageError(f"logit_bias must map token ids to numbers, not {token!r} to {bias!r}")


@dataclass(frozen=True)
class SampledToken:
    """A token with its log-probability under the model (before bias and temperature) and the best others."""

    id: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


class History:
    """What a sequence has seen: the prompt's tokens, and those of the answer, which can be taken back."""

    def __init__(self, prompt: Iterable[int] = ()) -> None:
        self.answer: list[int] = []
        self.counts: Counter[int] = Counter()
        self._prompt = frozenset(prompt)

    @property
    def seen(self) -> frozenset[int]:
        """Tokens of the prompt and of the answer."""
        return self._prompt.union(self.counts)

    def accept(self, token: int) -> None:
        """The answer goes on with a token."""
        self.answer.append(token)
        self.counts[token] += 1

    def take_back(self, count: int) -> None:
        """Forget the last tokens of the answer, as if they had never been drawn."""
        for token in self.answer[len(self.answer) - count :]:
            self.counts[token] -= 1
            if not self.counts[token]:
                del self.counts[token]
        del self.answer[len(self.answer) - count :]


class Sampler:
    """Chooses tokens as a `Sampling` says. To choose changes nothing: the history is the sequence's own.

    Each position draws its own random number from the seed (a random one if none was given), so a token that
    was taken back is drawn again alike. Raises UsageError for a bias on a token outside the vocabulary.
    """

    def __init__(self, sampling: Sampling, vocab_size: int) -> None:
        bad = [token for token in sampling.logit_bias if not 0 <= token < vocab_size]
        if bad:
            raise UsageError(f"logit_bias: token {bad[0]} is outside the vocabulary of {vocab_size}")
        self._sampling = sampling
        self._seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self._bias_ids = np.array(list(sampling.logit_bias), np.intp)
        self._bias = np.array(list(sampling.logit_bias.values()), np.float32)

    @property
    def greedy(self) -> bool:
        """Whether it always takes the likeliest token."""
        return self._sampling.temperature < GREEDY_TEMPERATURE

    def choose(
        self, logits: FloatArray, history: History, allowed: npt.NDArray[np.bool_] | None = None
    ) -> SampledToken:
        """The next token by logits (vocab,), which stay as they are; only one of those `allowed` (vocab,)."""
        adjusted, position = self._adjust(logits, history), len(history.answer)
        if allowed is None:
            return self._report(self._pick(adjusted, position), logits)
        ids = np.flatnonzero(allowed)  # mostly few: then quicker than to draw from all of them
        return self._report(int(ids[self._pick(adjusted[ids], position)]), logits)

    def _adjust(self, logits: FloatArray, history: History) -> FloatArray:
        s = self._sampling
        penalized = s.presence_penalty or s.frequency_penalty or s.repetition_penalty != 1.0
        if not (penalized or len(self._bias)):
            return logits
        adjusted = logits.copy()
        adjusted[self._bias_ids] += self._bias
        if s.repetition_penalty != 1.0:
            penalize_repetition(adjusted, history.seen, s.repetition_penalty)
        penalize_counts(adjusted, history.counts, s.presence_penalty, s.frequency_penalty)
        return adjusted

    def _pick(self, logits: FloatArray, position: int) -> int:
        return int(logits.argmax()) if self.greedy else self._draw(logits, position)

    def _draw(self, logits: FloatArray, position: int) -> int:
        s = self._sampling
        ids = keep_top_k(logits, s.top_k) if s.top_k else None
        probabilities = softmax((logits if ids is None else logits[ids]) / np.float32(s.temperature))
        kept = keep_top_p(probabilities, s.top_p) if s.top_p < 1 else None
        if s.min_p:
            likely = keep_min_p(probabilities if kept is None else probabilities[kept], s.min_p)
            kept = likely if kept is None else kept[likely]
        cumulative = np.cumsum(probabilities if kept is None else probabilities[kept], dtype=np.float64)
        chance = np.random.default_rng((self._seed, position)).random()
        drawn = int(np.searchsorted(cumulative, chance * cumulative[-1], side="right"))
        drawn = min(drawn, len(cumulative) - 1)
        drawn = drawn if kept is None else int(kept[drawn])
        return drawn if ids is None else int(ids[drawn])

    def _report(self, token: int, logits: FloatArray) -> SampledToken:
        wanted = self._sampling.logprobs
        if wanted is None:
            return SampledToken(token)
        peak = logits.max()
        log_total = peak + math.log(np.exp(logits - peak, dtype=np.float64).sum())
        best = keep_top_k(logits, wanted) if wanted else np.empty(0, np.intp)
        best = best[np.argsort(-logits[best], kind="stable")]
        top = tuple((int(i), float(logits[i] - log_total)) for i in best)
        return SampledToken(token, float(logits[token] - log_total), top)


def softmax(logits: FloatArray) -> FloatArray:
    """Probabilities of logits (n,)."""
    exponentials = np.exp(logits - logits.max())
    result: FloatArray = exponentials / exponentials.sum()
    return result


def keep_top_k(logits: FloatArray, k: int) -> IdArray:
    """Ids of the k largest logits in ascending order of id; all of them for k = 0."""
    if k == 0 or k >= len(logits):
        return np.arange(len(logits))
    return np.sort(np.argpartition(logits, -k)[-k:])


def keep_top_p(probabilities: FloatArray, p: float) -> IdArray:
    """Indices of the smallest set of tokens that reaches probability p: the most probable first, or by id
    where that takes thousands.
    """
    if p >= 1.0:
        return np.arange(len(probabilities))
    best = probabilities.max()
    if FEW[-1] * best < p:
        return _keep_many(probabilities, p)
    likely = np.flatnonzero(probabilities >= LIKELY * best)
    if probabilities[likely].sum(dtype=np.float64) < p:
        likely = np.arange(len(probabilities))
    for size in FEW:  # to be sorted; nearly always they reach p
        candidates = likely[keep_top_k(probabilities[likely], min(size, len(likely)))]
        candidates = candidates[np.argsort(-probabilities[candidates], kind="stable")]
        cumulative = np.cumsum(probabilities[candidates], dtype=np.float64)
        if cumulative[-1] >= p or size >= len(likely):
            return candidates[: int(np.searchsorted(cumulative, p)) + 1]
    return likely[_keep_many(probabilities[likely], p)]


def _keep_many(probabilities: FloatArray, p: float) -> IdArray:
    """The same by counting. Floats above 0 are ordered as their bits are; the first 16 of those make classes
    of tokens that are nearly as likely. Only the class in which p is reached is sorted.
    """
    classes = probabilities.view(np.int32) >> 16
    classes = classes.max() - classes
    reached = np.cumsum(np.bincount(classes, weights=probabilities))
    last = min(int(np.searchsorted(reached, p)), len(reached) - 1)
    edge = np.flatnonzero(classes == last)
    edge = edge[np.argsort(-probabilities[edge], kind="stable")]
    before = reached[last - 1] if last else 0.0
    count = int(np.searchsorted(before + np.cumsum(probabilities[edge], dtype=np.float64), p)) + 1
    kept = classes < last
    kept[edge[:count]] = True
    return np.flatnonzero(kept)


def keep_min_p(probabilities: FloatArray, p: float) -> IdArray:
    """Indices of tokens at least p times as probable as the best."""
    return np.flatnonzero(probabilities >= np.float32(p) * probabilities.max())


def penalize_repetition(logits: FloatArray, seen: Iterable[int], penalty: float) -> None:
    """Divide positive and multiply negative logits of tokens seen, in place (CTRL, arXiv:1909.05858)."""
    ids = np.fromiter(seen, np.intp)
    values = logits[ids]
    logits[ids] = np.where(values > 0, values / np.float32(penalty), values * np.float32(penalty))


def penalize_counts(logits: FloatArray, counts: Mapping[int, int], presence: float, frequency: float) -> None:
    """Subtract `presence` once and `frequency` per occurrence in the answer, in place."""
    if not counts or not (presence or frequency):
        return
    ids = np.fromiter(counts.keys(), np.intp)
    logits[ids] -= np.float32(presence) + np.float32(frequency) * np.fromiter(counts.values(), np.float32)
