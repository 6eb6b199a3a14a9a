"""Asking: the handler of `/api/chat` and `/api/generate`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from edgert.answering.reply import Chunk, Timings, join
from edgert.batch.openai import REASONS
from edgert.serve.desk import Answering, Desk
from edgert.serve.ollama.body import AskBody
from edgert.serve.ollama.options import seconds
from edgert.serve.openai.likelihoods import entry
from edgert.serve.outgoing import Outgoing


class Asking:
    """The handler."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, body: AskBody, out: Outgoing) -> None:
        keep_s, began = seconds(body.keep_alive), time.perf_counter()
        if not body.asks:
            await out.json(await self._only_load(body, keep_s))
            return
        async with self._desk.ask(body.question(), out.record) as answering:
            self._desk.models.keep(answering.served.name, keep_s)
            pieces = Pieces(body, answering, began)
            if body.stream is not False:
                async for chunk in answering.chunks():
                    for piece in pieces.of(chunk):
                        await out.line(piece)
                return
            chunks = [chunk async for chunk in answering.chunks()]
            reply = join(chunks)
            said = body.worded(reply.text, reply.thinking, reply.tool_calls)
            likelihoods = [found for chunk in chunks for found in pieces.likelihoods(chunk)]
            told = {"logprobs": likelihoods} if likelihoods else {}
            await out.json({**pieces.head(), **said, **told, **pieces.ending(chunks[-1])})

    async def _only_load(self, body: AskBody, keep_s: float | None) -> dict[str, Any]:
        models = self._desk.models
        served = models.named(body.name)
        head = {"model": body.model, "created_at": now(), **body.worded("")}
        if keep_s == 0:
            models.keep(served.name, 0)  # while it is answering: until it has
            await models.put_away(served.name)
            return {**head, "done": True, "done_reason": "unload"}
        async with models.use(served):
            models.keep(served.name, keep_s)
        return {**head, "done": True, "done_reason": "load"}


class Pieces:
    """One answer in lines. `began`: when it was asked, on the clock of time.perf_counter."""

    def __init__(self, body: AskBody, answering: Answering, began: float) -> None:
        self._body = body
        self._tokenizer = answering.model.tokenizer
        self._began = began
        self._held: list[dict[str, Any]] = []  # likelihoods of tokens whose text no line has had yet

    def head(self) -> dict[str, Any]:
        """What every line begins with."""
        return {"model": self._body.model, "created_at": now()}

    def of(self, chunk: Chunk) -> list[dict[str, Any]]:
        """Lines that a chunk adds."""
        self._held += self.likelihoods(chunk)
        lines = []
        if chunk.text or chunk.tool_calls:
            text, thought = ("", chunk.text) if chunk.channel == "thinking" else (chunk.text, "")
            said = self._body.worded(text, thought, chunk.tool_calls)
            told = {"logprobs": self._held} if self._held else {}
            lines.append({**self.head(), **said, **told, "done": False})
            self._held = []
        if chunk.finish_reason:
            lines.append({**self.head(), **self._body.worded(""), **self.ending(chunk)})
        return lines

    def likelihoods(self, chunk: Chunk) -> list[dict[str, Any]]:
        """Of its token, if they are asked for, and it is no part of a thought."""
        if not (self._body.logprobs and chunk.token and chunk.channel == "answer"):
            return []
        return [entry(chunk.token, self._tokenizer)]

    def ending(self, last: Chunk) -> dict[str, Any]:
        """What the last line ends with."""
        timings, total = last.timings, time.perf_counter() - self._began
        computing = timings.queued_s + timings.prefill_s + timings.decode_s
        return {
            "done": True,
            "done_reason": REASONS[last.finish_reason or "stop"],
            "total_duration": nanoseconds(total),
            "load_duration": nanoseconds(max(0.0, total - computing)),
            **evaluated(timings),
        }


def evaluated(timings: Timings) -> dict[str, int]:
    """Tokens that were read and written, with their times. Those that were cached were not read again."""
    return {
        "prompt_eval_count": timings.prompt_tokens,
        "prompt_eval_duration": nanoseconds(timings.prefill_s),
        "eval_count": timings.answer_tokens,
        "eval_duration": nanoseconds(timings.decode_s),
    }


def nanoseconds(given: float) -> int:
    """Of seconds."""
    return round(given * 1e9)


def now() -> str:
    """As their lines have it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
