"""ChatBody: a request to `/v1/chat/completions`."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from edgert.batch.openai import form_options
from edgert.errors import UsageError
from edgert.serve.desk import Question
from edgert.serve.openai.body import Body
from edgert.serve.strict import Strict


class TemplateOptions(Strict):
    """As vLLM and llama.cpp's server take them."""

    enable_thinking: bool | None = None


class ChatBody(Body):
    """Messages, tools that the answer may call, and the form that it must have."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    modalities: list[Literal["text"]] | None = None
    verbosity: str | None = None

    thinking: bool | None = Field(None, description="Of edgert: whether to think before the answer.")
    thinking_budget: int | str | None = Field(
        None, description='Of edgert: where the thought is closed, in tokens or as "20s".'
    )
    chat_template_kwargs: TemplateOptions | None = None

    @model_validator(mode="after")
    def _alternatives(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is for answers with logprobs=true")
        return self

    def question(self) -> Question:
        """What it asks. Raises UsageError."""
        return Question(self.model, lambda _: self.messages, self.options())

    def options(self) -> dict[str, Any]:
        options = {**super().options(), **self._thinking(), **self._tools()}
        if self.max_completion_tokens is not None:
            options["max_tokens"] = self.max_completion_tokens
        if self.logprobs:
            options["logprobs"] = self.top_logprobs or 0
        if self.response_format is not None:
            options.update(form_options(self.response_format))
        return options

    def _thinking(self) -> dict[str, Any]:
        """Efforts but "none" are the model's own: it knows no degrees."""
        in_template = self.chat_template_kwargs and self.chat_template_kwargs.enable_thinking
        wanted = self.thinking if self.thinking is not None else in_template
        if wanted is None and self.reasoning_effort == "none":
            wanted = False
        options = {"thinking": wanted, "thinking_budget": self.thinking_budget}
        return {name: value for name, value in options.items() if value is not None}

    def _tools(self) -> dict[str, Any]:
        if self.tool_choice == "none":
            return {}
        options: dict[str, Any] = {"tools": self.tools} if self.tools else {}
        return options if self.tool_choice is None else {**options, "tool_choice": _choice(self.tool_choice)}


def _choice(given: str | dict[str, Any]) -> str:
    """The name of a tool is for us a choice like "auto"."""
    match given:
        case "auto" | "required":
            return str(given)
        case {"type": "function", "function": {"name": str(name)}}:
            return name
    raise UsageError(f"tool_choice must be none, auto, required or the table of a function, not {given!r}")
