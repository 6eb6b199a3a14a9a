"""`/v1/responses`: OpenAI's API of items. The last responses are remembered, for others to go on with."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from edgert.answering.reply import Chunk, Timings, join
from edgert.serve.desk import Desk, Question
from edgert.serve.models import NotThere
from edgert.serve.openai.items import Event, Items
from edgert.serve.openai.response_body import ResponseBody
from edgert.serve.outgoing import Outgoing
from edgert.text.template import Message

REMEMBERED = 256  # responses, in memory only


class NoSuchResponse(NotThere):
    """An id that no remembered response has."""


class Responses:
    """The handler."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._told: OrderedDict[str, list[Message]] = OrderedDict()  # what was said up to each, by id

    async def __call__(self, body: ResponseBody, out: Outgoing) -> None:
        messages = [*self._earlier(body.previous_response_id), *body.messages()]
        head = [{"role": "system", "content": body.instructions}] if body.instructions else []
        question = Question(body.model, lambda _: [*head, *messages], body.options())
        async with (
            self._desk.ask(question, out.record) as answering,
            out.kept_alive() if body.stream else nullcontext(),
        ):
            response = Response(body, answering.served.name)
            chunks = []
            async for chunk in answering.chunks():
                chunks.append(chunk)
                for event in response.events(chunk):
                    if body.stream:
                        await out.event(event, name=event["type"])
            if body.store is not False:
                self._remember(response.id, [*messages, said(chunks)])
            if not body.stream:
                await out.json(response.table)

    def _earlier(self, previous: str | None) -> list[Message]:
        if previous is None:
            return []
        if previous not in self._told:
            raise NoSuchResponse(
                f"no response '{previous}' is remembered: the last {REMEMBERED} are, until the server ends"
            )
        return self._told[previous]

    def _remember(self, key: str, messages: list[Message]) -> None:
        self._told[key] = messages
        while len(self._told) > REMEMBERED:
            self._told.popitem(last=False)


class Response:
    """One answer in the words of that API."""

    def __init__(self, body: ResponseBody, model: str) -> None:
        self.id = f"resp_{secrets.token_hex(16)}"
        self._items = Items()
        self._events = 0
        self.table: dict[str, Any] = {
            "id": self.id,
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": [],
            "usage": None,
            "parallel_tool_calls": True,
            "tools": body.tools or [],
            "tool_choice": body.tool_choice or "auto",
            "truncation": "disabled",
            "metadata": body.metadata or {},
            "text": {"format": (body.text and body.text.format) or {"type": "text"}},
            "reasoning": {"effort": body.reasoning and body.reasoning.effort, "summary": None},
        }
        self.table["store"] = body.store is not False
        same = ("instructions", "previous_response_id", "max_output_tokens", "temperature", "top_p")
        self.table |= {name: getattr(body, name) for name in same}

    def events(self, chunk: Chunk) -> Iterator[Event]:
        """What a chunk adds, numbered."""
        for event in self._unnumbered(chunk):
            yield {**event, "sequence_number": self._events}
            self._events += 1

    def _unnumbered(self, chunk: Chunk) -> Iterator[Event]:
        if not self._events:
            yield {"type": "response.created", "response": {**self.table}}
            yield {"type": "response.in_progress", "response": {**self.table}}
        yield from self._items.events(chunk)
        if chunk.finish_reason:
            cut = chunk.finish_reason != "stop"
            self.table["status"] = "incomplete" if cut else "completed"
            self.table["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
            self.table |= {"output": self._items.done, "usage": usage(chunk.timings)}
            yield {"type": f"response.{self.table['status']}", "response": self.table}


def said(chunks: list[Chunk]) -> Message:
    """The answer as a message."""
    reply = join(chunks)
    calls = {"tool_calls": [call.to_json() for call in reply.tool_calls]} if reply.tool_calls else {}
    return {"role": "assistant", "content": reply.text, **calls}


def usage(timings: Timings) -> dict[str, Any]:
    """Tokens."""
    return {
        "input_tokens": timings.prompt_tokens,
        "input_tokens_details": {"cached_tokens": timings.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": timings.answer_tokens,
        "output_tokens_details": {"reasoning_tokens": timings.thinking_tokens},
        "total_tokens": timings.prompt_tokens + timings.answer_tokens,
    }
