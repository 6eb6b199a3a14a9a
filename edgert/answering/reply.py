"""What an answer is made of: chunks as they come, the reply when it is whole, and their timings."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from edgert.errors import EdgertError
from edgert.text.calls import ToolCall
from edgert.text.sampler import SampledToken
from edgert.text.thinking import Channel

FinishReason: TypeAlias = Literal["stop", "length", "loop", "cancelled"]


@dataclass(frozen=True, slots=True)
class Timings:
    """Counts and seconds of an answer so far.

    `cached_tokens` of the prompt were in the KV cache already, the others were computed in `prefill_s`, up to
    the first token. `queued_s` went by before, while other answers had all the room. `decoded_tokens` came
    after the first, in `decode_s`.
    `thinking_tokens` of the answer's are a thought, with its tags; the last of them came `thinking_s` after
    the first. Of `drafted_tokens`, which were guessed, `accepted_tokens` came true.
    """

    prompt_tokens: int
    cached_tokens: int
    answer_tokens: int
    queued_s: float
    prefill_s: float
    decoded_tokens: int
    decode_s: float
    thinking_tokens: int
    thinking_s: float
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def time_to_first_token_s(self) -> float:
        """Seconds from the request to the first token."""
        return self.queued_s + self.prefill_s

    @property
    def prefill_tokens_per_s(self) -> float:
        """Tokens of the prompt per second, without those that were cached; 0 before the first token."""
        return (self.prompt_tokens - self.cached_tokens) / self.prefill_s if self.prefill_s else 0.0

    @property
    def decode_tokens_per_s(self) -> float:
        """Tokens of the answer per second, after the first; 0 if there is only one."""
        return self.decoded_tokens / self.decode_s if self.decoded_tokens else 0.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """One step of an answer. The last has a `finish_reason` and no token.

    `text` is empty while a character, or what may become a stop string or a tag around a thought, is
    incomplete, and while the model calls tools. `channel` says which part of the answer it is.
    The last has the `tool_calls` of the answer.
    """

    text: str
    token: SampledToken | None
    timings: Timings
    finish_reason: FinishReason | None = None
    channel: Channel = "answer"
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Reply:
    """A whole answer; `tokens` carry log-probabilities where they were asked for.

    `thinking` is what the model thought before its answer, `text`; neither has the tags, `tokens` have both.
    An answer that was cut within its thought has no `text`.
    `tool_calls` are no part of `text`; of an answer that was cut, those that were whole.

    `finish_reason`: "stop" (the model ended it, or a stop string did), "length" (`max_tokens`, or the context
    is full), "loop" (it only repeated itself), "cancelled". After a stop string, `tokens` include those that
    spelled it, `text` does not.
    """

    text: str
    tokens: tuple[SampledToken, ...]
    finish_reason: FinishReason
    timings: Timings
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids of `tokens`."""
        return tuple(token.id for token in self.tokens)

    def json(self) -> Any:
        """What the answer says as JSON. Raises EdgertError if it was cut off, or is none."""
        if self.finish_reason != "stop":
            count = self.timings.answer_tokens
            raise EdgertError(
                f"the answer ended after {count} tokens ({self.finish_reason}), before its JSON did"
            )
        try:
            return json.loads(self.text)
        except ValueError as error:
            raise EdgertError(f"the answer is not JSON: {error}; json_schema= makes sure of it") from error


def join(chunks: Sequence[Chunk]) -> Reply:
    """The reply of all chunks of an answer."""
    last = chunks[-1]
    if last.finish_reason is None:
        raise ValueError("the answer is not finished")
    return Reply(
        text="".join(chunk.text for chunk in chunks if chunk.channel == "answer"),
        tokens=tuple(chunk.token for chunk in chunks if chunk.token is not None),
        finish_reason=last.finish_reason,
        timings=last.timings,
        tool_calls=last.tool_calls,
        thinking="".join(chunk.text for chunk in chunks if chunk.channel == "thinking"),
    )


class Stopwatch:
    """Times one answer: made with the request, started with its row, ticked once per sampled token."""

    def __init__(self, prompt_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._cached_tokens = 0
        self._requested = time.perf_counter()
        self._started: float | None = None
        self._first: float | None = None
        self._last = self._requested
        self._sampled = 0
        self._thinking_tokens = 0
        self._thought = self._requested
        self._drafted = 0
        self._accepted = 0

    def start(self, cached_tokens: int) -> None:
        """Computing begins; so many tokens of the prompt need no computing."""
        self._cached_tokens = cached_tokens
        self._started = time.perf_counter()

    def tick(self) -> None:
        """A token was sampled."""
        self._last = time.perf_counter()
        self._sampled += 1
        if self._first is None:
            self._first = self._last

    def think(self) -> None:
        """The last token belongs to a thought."""
        self._thinking_tokens += 1
        self._thought = self._last

    def draft(self, drafted: int, accepted: int) -> None:
        """So many tokens were guessed, and so many of them came true."""
        self._drafted += drafted
        self._accepted += accepted

    def timings(self, answer_tokens: int) -> Timings:
        """So far. `answer_tokens` doesn't count a token that ends the answer, which was sampled, too."""
        now = time.perf_counter()
        started = self._started or now
        return Timings(
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            answer_tokens=answer_tokens,
            queued_s=started - self._requested,
            prefill_s=self._first - started if self._first else 0.0,
            decoded_tokens=max(0, self._sampled - 1),
            decode_s=self._last - self._first if self._first else 0.0,
            thinking_tokens=self._thinking_tokens,
            thinking_s=self._thought - self._first if self._first and self._thinking_tokens else 0.0,
            drafted_tokens=self._drafted,
            accepted_tokens=self._accepted,
        )
