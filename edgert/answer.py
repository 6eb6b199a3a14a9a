"""What an answer is made of: chunks as they come, the reply when it is whole, and their timings."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from edgert.text.sampler import SampledToken

FinishReason: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Timings:
    """Counts and seconds of an answer so far.

    `cached_tokens` of the prompt were in the KV cache already; the first token's time is the prefill's.
    """

    prompt_tokens: int
    cached_tokens: int
    answer_tokens: int
    prefill_s: float
    decode_steps: int
    decode_s: float

    @property
    def time_to_first_token_s(self) -> float:
        return self.prefill_s

    @property
    def prefill_tokens_per_s(self) -> float:
        return (self.prompt_tokens - self.cached_tokens) / self.prefill_s

    @property
    def decode_tokens_per_s(self) -> float:
        """0 for answers of one token, which has no decode step."""
        return self.decode_steps / self.decode_s if self.decode_steps else 0.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """One step of an answer. The last has a `finish_reason` and no token.

    `text` is empty while a character, or what may become a stop string, is incomplete.
    """

    text: str
    token: SampledToken | None
    timings: Timings
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Reply:
    """A whole answer; `tokens` carry log-probabilities where they were asked for.

    After a stop string, `tokens` include those that spelled it, `text` does not.
    """

    text: str
    tokens: tuple[SampledToken, ...]
    finish_reason: FinishReason
    timings: Timings

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)


class Stopwatch:
    """Times one answer: started before the prefill, ticked once a sampled token."""

    def __init__(self, prompt_tokens: int, cached_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._cached_tokens = cached_tokens
        self._start = time.perf_counter()
        self._first = 0.0
        self._steps = -1

    def tick(self, answer_tokens: int) -> Timings:
        """Timings after one more sampled token, with `answer_tokens` in the answer."""
        now = time.perf_counter()
        self._steps += 1
        if self._steps == 0:
            self._first = now
        return Timings(
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            answer_tokens=answer_tokens,
            prefill_s=self._first - self._start,
            decode_steps=self._steps,
            decode_s=now - self._first,
        )


def cut_notice(timings: Timings, context: int) -> str:
    """A line for people: why an answer stopped before its end."""
    if timings.prompt_tokens + timings.answer_tokens >= context:
        return f"(cut off: the context of {context} tokens is full; --context makes it larger)"
    return f"(cut off after {timings.answer_tokens} tokens, as asked)"


def join(chunks: Iterable[Chunk]) -> Reply:
    """The reply of a finished stream of chunks."""
    chunks = list(chunks)
    last = chunks[-1]
    if last.finish_reason is None:
        raise ValueError("the stream was not finished")
    return Reply(
        text="".join(chunk.text for chunk in chunks),
        tokens=tuple(chunk.token for chunk in chunks if chunk.token is not None),
        finish_reason=last.finish_reason,
        timings=last.timings,
    )
