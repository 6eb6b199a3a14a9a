"""Asking: a question in one of the page's conversations, answered as it comes."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import Field

from edgert.answering.reply import Chunk
from edgert.answering.stream import AsyncStream
from edgert.errors import EdgertError
from edgert.model import Model
from edgert.serve.desk import Answering, Desk
from edgert.serve.outgoing import Outgoing
from edgert.serve.page.talks import Talk, Talks, before
from edgert.serve.strict import Strict

MOST_LETTERS = 1 << 19  # of a question: more than contexts hold, and read in half a second
OPTIONS = ("max_tokens", "temperature", "top_p", "thinking")


class AskBody(Strict):
    """A question. `session`: the conversation it belongs to, None begins one.

    `after`: how many of its messages stay before the question; those behind them are forgotten, as when a
    question is edited.
    """

    session: str | None = None
    model: str | None = None
    content: str = Field(min_length=1, max_length=MOST_LETTERS)
    after: int | None = Field(None, ge=0)
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    thinking: bool | None = None

    def options(self) -> dict[str, Any]:
        """Ours, not checked yet."""
        return {name: value for name in OPTIONS if (value := getattr(self, name)) is not None}


class Ask:
    """The handler."""

    def __init__(self, desk: Desk, talks: Talks) -> None:
        self._desk = desk
        self._talks = talks

    async def __call__(self, body: AskBody, out: Outgoing) -> None:
        if body.session is not None:
            await self._answer(body.session, body, out)
            return
        with self._talks.begun(body.content) as name:
            await self._answer(name, body, out)

    async def _answer(self, name: str, body: AskBody, out: Outgoing) -> None:
        served = self._desk.models.named(body.model)
        async with self._desk.use(served, out.record) as model, out.kept_alive():
            async with self._talks.turn(name):
                talk = await asyncio.to_thread(self._talks.open, name, model, body.system)
                options = {**served.options, **body.options()}
                opened = await asyncio.to_thread(_asked, talk, body, options)  # a long text takes seconds
            async with opened as stream:
                await out.event({"session": name})
                async for chunk in Answering(served, model, stream, out.record).chunks():
                    if chunk.text:
                        await out.event({chunk.channel: chunk.text})
                    if chunk.finish_reason:
                        await out.event({"end": _ending(chunk, model, talk)})


def _asked(talk: Talk, body: AskBody, options: dict[str, Any]) -> AsyncStream:
    """Where the question is refused, nothing is forgotten. Raises UsageError, PromptTooLong."""
    conversation, earlier = talk.conversation, talk.conversation.history
    if body.after is not None:
        conversation.restore(before(earlier, body.after))
    try:
        return conversation.asend(body.content, **options)
    except EdgertError:
        if body.after is not None:
            conversation.restore(earlier)
        raise


def _ending(last: Chunk, model: Model, talk: Talk) -> dict[str, Any]:
    """How it ended, and what it took."""
    timings = last.timings
    return {
        "reason": last.finish_reason,
        "answer_tokens": timings.answer_tokens,
        "tokens_per_s": round(timings.decode_tokens_per_s, 1),
        "first_token_s": round(timings.time_to_first_token_s, 2),
        "cached_tokens": timings.cached_tokens,
        "context_used": timings.prompt_tokens + timings.answer_tokens,
        "context": model.context,
        "left_out": talk.conversation.left_out,
    }
