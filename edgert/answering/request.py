"""Request: how one answer is made. Options are its keyword arguments, as callers give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, Literal, TypedDict, get_args

from edgert.answering.budget import Budget, parse_budget
from edgert.bundle import GenerationDefaults
from edgert.errors import UsageError
from edgert.text.grammar import FORMS, Grammar, read_grammar
from edgert.text.sampler import Sampling
from edgert.text.stops import check_stops
from edgert.text.tools import AnyTool, Tool, read_tools

Draft = Literal["auto", "lookup", "off"]


class Options(TypedDict, total=False):
    """Keyword arguments of everything that answers; what is left out is the model's own default."""

    max_tokens: int | None
    stop: str | Iterable[str]
    stop_loops: bool
    fresh: bool
    special_tokens: bool
    thinking: bool | None
    thinking_budget: int | str | None
    draft: Draft
    json_schema: Mapping[str, Any] | type | None
    regex: str | None
    grammar: str | None
    tools: Iterable[AnyTool]
    tool_choice: str
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    logprobs: int | None
    seed: int | None


SWITCHES = ("stop_loops", "fresh", "special_tokens")


@dataclass(frozen=True)
class Request:
    """How one answer is made.

    `max_tokens`: None is as many as the context holds. `stop`: strings that end the answer and aren't part of
    it. `stop_loops`: end an answer that only repeats itself. `fresh`: compute all of the prompt, even if the
    cache holds its beginning; an answer's own tokens are rounded otherwise than when a prompt repeats them.
    `special_tokens`: text in a message that spells a special token becomes that token. Who writes the message
    can then forge turns; without it such text is ordinary.
    `thinking`: whether the model thinks before it answers; None is its chat template's own choice.
    `thinking_budget`: where the thought is closed, so that the answer follows.
    `draft`: "lookup" guesses tokens from what the prompt and the answer have had before, and computes several
    at once where that is quicker; "off" never guesses. Mostly logits of several are rounded otherwise than
    those of one: where two tokens are almost equally likely, the answer may go on with the other. "auto"
    guesses where they are the same, as with 8-bit keys and values, and where the model was loaded with a
    smaller student that drafts, which "lookup" uses, too; until a model has read it, it is "off".
    `grammar`: the form that the answer must have, of one of the options `json_schema` (a dict, or a pydantic
    model), `regex` and `grammar` (Lark).
    `tools`: what the model may call, see `Tool`. `tool_choice`: "auto" (as the model likes), "required" (an
    answer is calls) or the name of the tool to call.
    Raises UsageError.
    """

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_loops: bool = False
    fresh: bool = False
    special_tokens: bool = False
    thinking: bool | None = None
    thinking_budget: Budget | None = None
    draft: Draft = "auto"
    grammar: Grammar | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        limit = self.max_tokens
        whole = isinstance(limit, Integral) and not isinstance(limit, bool)
        if limit is not None and not (whole and limit >= 1):
            raise UsageError(f"max_tokens must be a whole number of at least 1, not {limit!r}")
        for name in SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} must be True or False, not {getattr(self, name)!r}")
        if not (self.thinking is None or isinstance(self.thinking, bool)):
            raise UsageError(f"thinking must be True, False or None, not {self.thinking!r}")
        if self.draft not in get_args(Draft):
            raise UsageError(f"draft must be 'auto', 'lookup' or 'off', not {self.draft!r}")
        check_stops(self.stop)
        self._check_tools()

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        """Those that the answer may call: all, or the one that was chosen."""
        return tuple(tool for tool in self.tools if tool.name == self.tool_choice) or self.tools

    def _check_tools(self) -> None:
        names = [tool.name for tool in self.tools]
        if self.tool_choice not in ("auto", "required", *names):
            known = ", ".join(["auto", "required", *names])
            raise UsageError(f"tool_choice must be one of {known}, not {self.tool_choice!r}")
        if self.tool_choice != "auto" and not names:
            raise UsageError("tool_choice needs tools")
        if self.tools and self.grammar:
            raise UsageError(f"tools and {self.grammar.form} are given: an answer has one form")


OWN_OPTIONS = (
    "max_tokens",
    "stop",
    "thinking",
    "thinking_budget",
    "draft",
    *FORMS,
    "tools",
    "tool_choice",
    *SWITCHES,
)  # the others are the sampling's


def usual_sampling(own: GenerationDefaults) -> Sampling:
    """How a bundle's own defaults draw."""
    return Sampling(own.temperature, own.top_k, own.top_p, own.min_p, own.repetition_penalty)


def request(defaults: Sampling, options: Mapping[str, Any]) -> Request:
    """The options over the model's own defaults. Raises UsageError for unknown or impossible ones."""
    known = Options.__annotations__
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise UsageError(f"unknown option '{unknown[0]}' (known: {', '.join(known)})")
    own = {name: value for name, value in options.items() if name in OWN_OPTIONS and name not in FORMS}
    own["grammar"] = read_grammar(options)
    if "tools" in own:
        own["tools"] = read_tools(own["tools"])
    if "stop" in own:
        own["stop"] = _strings(own["stop"])
    if own.get("thinking_budget") is not None:
        own["thinking_budget"] = parse_budget(own["thinking_budget"])
    try:
        drawn = {name: value for name, value in options.items() if name not in OWN_OPTIONS}
        return Request(sampling=replace(defaults, **drawn), **own)
    except TypeError as error:
        raise UsageError(f"an option has the wrong type: {error}") from error


def _strings(stop: object) -> tuple[Any, ...]:
    """One string, or several from anything that can be iterated."""
    if isinstance(stop, str):
        return (stop,)
    if not isinstance(stop, Iterable):
        raise UsageError(f"stop must be a string or several, not {stop!r}")
    return tuple(stop)
