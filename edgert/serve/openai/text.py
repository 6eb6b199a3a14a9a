"""`/v1/completions`: a text goes on, whole or as it comes."""

from __future__ import annotations

import secrets
import time
from typing import Any

from edgert.answering.reply import Chunk, Reply, join
from edgert.serve.desk import Answering, Desk
from edgert.serve.openai.completion import reason, usage
from edgert.serve.openai.text_body import TextBody
from edgert.serve.outgoing import Outgoing
from edgert.text.sampler import SampledToken
from edgert.text.tokenizer import Tokenizer


class Text:
    """The handler."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, body: TextBody, out: Outgoing) -> None:
        async with self._desk.ask(body.question(), out.record) as answering:
            tokenizer = answering.model.tokenizer if body.logprobs is not None else None
            continuation = Continuation(answering.served.name, tokenizer)
            if body.stream:
                await self._stream(answering, continuation, out, tells_usage=body.tells_usage)
                return
            chunks = [chunk async for chunk in answering.chunks()]
            await out.json(continuation.whole(chunks, join(chunks)))

    @staticmethod
    async def _stream(
        answering: Answering, continuation: Continuation, out: Outgoing, *, tells_usage: bool
    ) -> None:
        async with out.kept_alive():
            async for chunk in answering.chunks():
                if piece := continuation.piece(chunk):
                    await out.event(piece)
        if tells_usage and answering.record.timings:
            told = {"choices": [], "usage": usage(answering.record.timings)}
            await out.event({**continuation.head, **told})
        await out.event("[DONE]")


class Continuation:
    """One answer in the words of that API. `tokenizer` spells tokens whose likelihoods are asked for."""

    def __init__(self, model: str, tokenizer: Tokenizer | None) -> None:
        about = {"id": f"cmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self.head = {**about, "object": "text_completion"}
        self._tokenizer = tokenizer
        self._held: list[SampledToken] = []
        self._offset = 0  # characters that were told

    def whole(self, chunks: list[Chunk], reply: Reply) -> dict[str, Any]:
        """All of it."""
        self._held = list(reply.tokens)
        choice = self._choice(reply.text, reason(chunks[-1]))
        return {**self.head, "choices": [choice], "usage": usage(reply.timings)}

    def piece(self, chunk: Chunk) -> dict[str, Any] | None:
        """What a chunk adds; None while a character is incomplete."""
        if chunk.token:
            self._held.append(chunk.token)
        if not (chunk.text or chunk.finish_reason):
            return None
        return {
            **self.head,
            "choices": [self._choice(chunk.text, reason(chunk) if chunk.finish_reason else None)],
        }

    def _choice(self, text: str, ended: str | None) -> dict[str, Any]:
        held, self._held = self._held, []
        told = self._logprobs(held, self._tokenizer) if self._tokenizer else None
        self._offset += len(text)
        return {"text": text, "index": 0, "logprobs": told, "finish_reason": ended}

    def _logprobs(self, held: list[SampledToken], tokenizer: Tokenizer) -> dict[str, Any]:
        """Lists with an entry per token. `text_offset`: where each begins, as far as it is known."""
        texts, offsets = [tokenizer.spell([token.id]) for token in held], [self._offset]
        for text in texts[:-1]:
            offsets.append(offsets[-1] + len(text))
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in held],
            "top_logprobs": [
                {tokenizer.spell([other]): logprob for other, logprob in token.top_logprobs} for token in held
            ],
            "text_offset": offsets[: len(texts)],
        }
