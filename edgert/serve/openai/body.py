"""Body: the fields that requests to OpenAI's addresses share."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from edgert.errors import UsageError
from edgert.serve.strict import Strict

# Fields that are options of ours by the same name.
SAME = (
    "max_tokens",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "top_k",
    "min_p",
    "repetition_penalty",
    "stop_loops",
    "draft",
    "regex",
    "grammar",
)


class StreamOptions(Strict):
    """`include_usage`: a last piece tells the tokens."""

    include_usage: bool = False
    include_obfuscation: bool | None = None  # hides lengths from who listens in; nobody does on loopback


class Caller(Strict):
    """Fields about the caller, or about how a service of theirs is run: no answer depends on them."""

    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    parallel_tool_calls: bool | None = None


class Body(Caller):
    """What requests for an answer to messages, and to a text, have in common."""

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    top_k: int | None = Field(None, description="Of edgert: draw from so many of the likeliest tokens.")
    min_p: float | None = Field(None, description="Of edgert: drop what is less likely than this × the best.")
    repetition_penalty: float | None = Field(None, description="Of edgert: above 1 repeats less.")
    stop_loops: bool | None = Field(None, description="Of edgert: end an answer that only repeats itself.")
    draft: str | None = Field(
        None, description='Of edgert: "lookup" guesses tokens, which can be quicker; "off" never.'
    )
    regex: str | None = Field(None, description="Of edgert: the form of the answer, an expression.")
    grammar: str | None = Field(None, description="Of edgert: the form of the answer, in Lark.")

    @field_validator("n")
    @classmethod
    def _one_answer(cls, n: int) -> int:
        if n != 1:
            raise ValueError("only one answer is made per request; ask several times for more")
        return n

    @model_validator(mode="after")
    def _streams(self) -> Self:
        if self.stream_options and not self.stream:
            raise ValueError("stream_options is for answers with stream=true")
        return self

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def options(self) -> dict[str, Any]:
        """Ours, not checked yet. Raises UsageError."""
        options = {name: value for name in SAME if (value := getattr(self, name)) is not None}
        if self.logit_bias:
            options["logit_bias"] = {_token(key): bias for key, bias in self.logit_bias.items()}
        return options


def _token(key: str) -> int:
    """JSON has texts as keys only."""
    if not key.isdecimal():
        raise UsageError(f"logit_bias: its keys are token ids, not {key!r}")
    return int(key)
