"""Bodies: requests to `/api/chat` and `/api/generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from edgert.errors import UsageError
from edgert.model import Model, Prompt
from edgert.serve.desk import Question
from edgert.serve.ollama import options
from edgert.serve.strict import Strict
from edgert.text.calls import ToolCall

TAG = ":latest"  # Ollama's names have a tag behind them


class AskBody(Strict):
    """What both have. A request that asks nothing loads the model, or puts it away for `keep_alive` 0."""

    model: str = Field(min_length=1)
    stream: bool | None = None
    options: dict[str, Any] | None = None
    format: str | dict[str, Any] | None = None
    keep_alive: float | str | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def name(self) -> str:
        """Of the model, as we call it."""
        return self.model.removesuffix(TAG)

    @property
    def asks(self) -> bool:
        """Whether there is something to be answered."""
        raise NotImplementedError

    def prompt(self, model: Model) -> Prompt:
        """For the model. Raises UsageError."""
        raise NotImplementedError

    def worded(self, text: str, thinking: str = "", calls: Sequence[ToolCall] = ()) -> dict[str, Any]:
        """A piece of an answer in this request's form."""
        raise NotImplementedError

    def question(self) -> Question:
        """What it asks. Raises UsageError."""
        return Question(self.name, self.prompt, self.settings())

    def settings(self) -> dict[str, Any]:
        """Options of ours, not checked yet. Raises UsageError."""
        ours = {**options.read(self.options or {}), **options.form(self.format)}
        if self.think is not None:
            ours["thinking"] = bool(self.think)
        if self.logprobs:
            ours["logprobs"] = self.top_logprobs or 0
        return ours


class ChatBody(AskBody):
    """Messages, and tools that the answer may call."""

    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None

    @property
    def asks(self) -> bool:
        return bool(self.messages)

    def prompt(self, model: Model) -> Prompt:
        if any(message.get("images") for message in self.messages or ()):
            raise UsageError("images can't be read: these models know text only")
        return self.messages or []

    def worded(self, text: str, thinking: str = "", calls: Sequence[ToolCall] = ()) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = [
                {"function": {"name": call.name, "arguments": call.arguments}} for call in calls
            ]
        return {"message": message}

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "tools": self.tools} if self.tools else super().settings()


class GenerateBody(AskBody):
    """A question with a system prompt, or with `raw` a text to go on with."""

    prompt_text: str | None = Field(None, alias="prompt")
    system: str | None = None
    raw: bool | None = None
    template: str | None = None
    suffix: str | None = None
    context: list[int] | None = None
    images: list[str] | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for name in ("template", "suffix", "context", "images"):
            if getattr(self, name):
                raise ValueError(f"{name} can't be used here: {WHY[name]}")
        return self

    @property
    def asks(self) -> bool:
        return bool(self.prompt_text)

    def prompt(self, model: Model) -> Prompt:
        text = self.prompt_text or ""
        if self.raw:
            return model.tokenizer.encode(text)
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": text}]

    def worded(self, text: str, thinking: str = "", calls: Sequence[ToolCall] = ()) -> dict[str, Any]:
        return {"response": text, "thinking": thinking} if thinking else {"response": text}


WHY = {
    "template": "the model has its own",
    "suffix": "these models write forward only",
    "context": "send the messages to /api/chat",
    "images": "these models know text only",
}
