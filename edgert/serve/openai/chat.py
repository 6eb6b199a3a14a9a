"""`/v1/chat/completions`: the answer to messages, whole or as it comes."""

from __future__ import annotations

import secrets
import time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from edgert.answering.reply import Chunk, Reply, Timings
from edgert.batch.openai import REASONS
from edgert.serve.desk import Answering, Desk, Question
from edgert.serve.outgoing import Outgoing

KEEP_ALIVE_S = 15.0


class ChatBody(BaseModel):
    """A request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    messages: list[dict[str, Any]] = Field(min_length=1)
    stream: bool = False
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None

    def question(self) -> Question:
        """What it asks."""
        own = {"model", "messages", "stream", "max_completion_tokens"}
        options = self.model_dump(exclude=own, exclude_none=True)
        if self.max_completion_tokens is not None:
            options["max_tokens"] = self.max_completion_tokens
        return Question(self.model, lambda _: self.messages, options)


class Chat:
    """The handler."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, body: ChatBody, out: Outgoing) -> None:
        async with self._desk.ask(body.question()) as answering:
            completion = Completion(answering.served.name)
            if not body.stream:
                await out.json(completion.whole(await answering.stream.reply()))
                return
            await self._stream(answering, completion, out)

    @staticmethod
    async def _stream(answering: Answering, completion: Completion, out: Outgoing) -> None:
        async for chunk in answering.stream:
            if chunk.text or chunk.finish_reason:
                await out.event(completion.piece(chunk))
        await out.event("[DONE]")


class Completion:
    """One answer in their words."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def whole(self, reply: Reply) -> dict[str, Any]:
        message = {"role": "assistant", "content": reply.text}
        if reply.thinking:
            message["reasoning_content"] = reply.thinking  # as DeepSeek's API calls it
        choice = {"index": 0, "message": message, "finish_reason": REASONS[reply.finish_reason]}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": usage(reply.timings),
        }

    def piece(self, chunk: Chunk) -> dict[str, Any]:
        name = "reasoning_content" if chunk.channel == "thinking" else "content"
        delta = {name: chunk.text} if chunk.text else {}
        reason = REASONS[chunk.finish_reason] if chunk.finish_reason else None
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}


def usage(timings: Timings) -> dict[str, Any]:
    """Tokens."""
    asked, answered = timings.prompt_tokens, timings.answer_tokens
    return {
        "prompt_tokens": asked,
        "completion_tokens": answered,
        "total_tokens": asked + answered,
        "prompt_tokens_details": {"cached_tokens": timings.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": timings.thinking_tokens},
    }
